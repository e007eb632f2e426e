/** Axes of charts: which ticks, and at which pixel a value lies. */

export interface Axis {
  readonly label: string;
  /** Powers of ten instead of equal steps; every value must then be above 0. */
  readonly log?: boolean;
}

export interface AxisScale {
  readonly ticks: readonly number[];
  /** The pixel of a value. */
  place(value: number): number;
}

/** Maps values to pixels `from`..`to`. Throws for values that are not finite, below 0, or 0 on a logarithmic axis. */
export function axisScale(
  { log = false, label }: Axis,
  values: readonly number[],
  from: number,
  to: number,
): AxisScale {
  let [least, most] = [Infinity, 0];
  for (const value of values) {
    if (!Number.isFinite(value)) throw new Error(`the axis "${label}" cannot show ${value}`);
    if (value < 0 || (log && value === 0)) throw new Error(`a value too small for the axis "${label}": ${value}`);
    least = Math.min(least, value);
    most = Math.max(most, value);
  }
  const ticks = !log ? linearTicks(most) : values.length === 0 ? [1, 10] : logTicks(least, most);
  const at = log ? Math.log10 : (value: number): number => value;
  const [low, high] = [at(ticks[0]!), at(ticks.at(-1)!)];
  return { ticks, place: (value) => from + ((at(value) - low) / (high - low)) * (to - from) };
}

/** About five round numbers from 0 to `max` or just above: 1, 2 or 5 times a power of ten apart. */
export function linearTicks(max: number): number[] {
  if (!(max > 0)) return [0, 1];
  const rough = max / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power;
  return Array.from({ length: Math.ceil(max / step - 1e-9) + 1 }, (_, index) => Number((index * step).toPrecision(12)));
}

/** Powers of ten that enclose min..max, both above 0. */
export function logTicks(min: number, max: number): number[] {
  const from = Math.floor(Math.log10(min));
  const to = Math.max(from + 1, Math.ceil(Math.log10(max)));
  return Array.from({ length: to - from + 1 }, (_, index) => 10 ** (from + index));
}
