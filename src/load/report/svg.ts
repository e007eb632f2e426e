/** Plots as SVG text. Nothing outside is needed to show them. */

export interface Line {
  readonly name: string;
  /** x and y; null leaves a gap. */
  readonly points: readonly (readonly [number, number | null])[];
  readonly dots?: boolean;
}

export interface Plot {
  readonly title: string;
  readonly x: string;
  readonly y: string;
  readonly logX?: boolean;
  readonly lines: readonly Line[];
}

const [WIDTH, HEIGHT] = [640, 300];
const MARGIN = { left: 64, right: 16, top: 34, bottom: 44 };
const COLOURS = ["#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f"];

export const colour = (index: number): string => COLOURS[index % COLOURS.length]!;

export const escape = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");

/** Round numbers that cover 0 to `max`, about five of them: 1, 2 or 5 times a power of ten apart. */
export function ticks(max: number): number[] {
  if (!(max > 0)) return [0, 1];
  const rough = max / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power;
  return Array.from({ length: Math.ceil(max / step - 1e-9) + 1 }, (_, index) => Number((index * step).toPrecision(12)));
}

/** Powers of ten that enclose the values. */
export function logTicks(min: number, max: number): number[] {
  const from = Math.floor(Math.log10(min));
  const to = Math.max(from + 1, Math.ceil(Math.log10(max)));
  return Array.from({ length: to - from + 1 }, (_, index) => 10 ** (from + index));
}

/** Lines or dots over two axes. */
export function plot({ title, x, y, logX = false, lines }: Plot): string {
  const all = lines.flatMap(({ points }) =>
    points.filter((point): point is readonly [number, number] => point[1] !== null && (!logX || point[0] > 0)),
  );
  const xs = all.map(([value]) => value);
  const xTicks = !logX ? ticks(most(xs)) : xs.length === 0 ? [1, 10] : logTicks(least(xs), most(xs));
  const yTicks = ticks(most(all.map(([, value]) => value)));
  const toX = scaleOf(xTicks, MARGIN.left, WIDTH - MARGIN.right, logX);
  const toY = scaleOf(yTicks, HEIGHT - MARGIN.bottom, MARGIN.top, false);
  const body = [
    ...yTicks.map(
      (tick) =>
        `<line class="grid" x1="${MARGIN.left}" x2="${WIDTH - MARGIN.right}" y1="${toY(tick)}" y2="${toY(tick)}"/><text x="${MARGIN.left - 6}" y="${toY(tick) + 4}" text-anchor="end">${label(tick)}</text>`,
    ),
    ...xTicks.map(
      (tick) =>
        `<line class="grid" x1="${toX(tick)}" x2="${toX(tick)}" y1="${MARGIN.top}" y2="${HEIGHT - MARGIN.bottom}"/><text x="${toX(tick)}" y="${HEIGHT - MARGIN.bottom + 16}" text-anchor="middle">${label(tick)}</text>`,
    ),
    `<text x="${(MARGIN.left + WIDTH - MARGIN.right) / 2}" y="${HEIGHT - 8}" text-anchor="middle">${escape(x)}</text>`,
    `<text x="${MARGIN.left}" y="${MARGIN.top - 8}">${escape(y)}</text>`,
    ...lines.map((line, index) =>
      line.dots === true ? dots(line, toX, toY, colour(index)) : path(line, toX, toY, colour(index), logX),
    ),
  ];
  const legend = lines
    .map(({ name }, index) => `<span><i style="background:${colour(index)}"></i>${escape(name)}</span>`)
    .join("");
  return `<figure><figcaption>${escape(title)}</figcaption><svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escape(title)}">${body.join("")}</svg><div class="legend">${legend}</div></figure>`;
}

/** One horizontal bar for each value. */
export function bars(
  title: string,
  values: readonly { readonly name: string; readonly value: number; readonly colour: string }[],
): string {
  const [row, left] = [18, 150];
  const height = values.length * row + 30;
  const xTicks = ticks(most(values.map(({ value }) => value)));
  const toX = scaleOf(xTicks, left, WIDTH - MARGIN.right, false);
  const body = [
    ...xTicks.map(
      (tick) =>
        `<line class="grid" x1="${toX(tick)}" x2="${toX(tick)}" y1="0" y2="${height - 24}"/><text x="${toX(tick)}" y="${height - 8}" text-anchor="middle">${label(tick)}</text>`,
    ),
    ...values.map(
      ({ name, value, colour: fill }, index) =>
        `<text x="${left - 6}" y="${index * row + 13}" text-anchor="end">${escape(name)}</text><rect x="${left}" y="${index * row + 3}" width="${fixed(toX(value) - left)}" height="${row - 6}" fill="${fill}"/>`,
    ),
  ];
  return `<figure><figcaption>${escape(title)}</figcaption><svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escape(title)}">${body.join("")}</svg></figure>`;
}

type Scale = (value: number) => number;

function scaleOf(axis: readonly number[], from: number, to: number, log: boolean): Scale {
  const place = (value: number): number => (log ? Math.log10(value) : value);
  const [low, high] = [place(axis[0]!), place(axis.at(-1)!)];
  return (value) => Number(fixed(from + ((place(value) - low) / (high - low)) * (to - from)));
}

function path({ points }: Line, toX: Scale, toY: Scale, stroke: string, logX: boolean): string {
  let pen = "M";
  let d = "";
  for (const [x, y] of points) {
    if (y === null || (logX && x <= 0)) {
      pen = "M";
      continue;
    }
    d += `${pen}${toX(x)} ${toY(y)}`;
    pen = "L";
  }
  return `<path d="${d}" fill="none" stroke="${stroke}" stroke-width="1.6"/>`;
}

function dots({ points }: Line, toX: Scale, toY: Scale, fill: string): string {
  return points
    .map(([x, y]) =>
      y === null ? "" : `<circle cx="${toX(x)}" cy="${toY(y)}" r="3" fill="${fill}" fill-opacity="0.6"/>`,
    )
    .join("");
}

const fixed = (value: number): string => value.toFixed(1);
const label = (value: number): string =>
  Math.abs(value) >= 10_000 ? `${Number((value / 1000).toPrecision(4))}k` : String(Number(value.toPrecision(4)));
const most = (values: readonly number[]): number => values.reduce((a, b) => Math.max(a, b), 0);
const least = (values: readonly number[]): number => values.reduce((a, b) => Math.min(a, b), Infinity);
