/** Size of the window. The median predicts the next value, and a disturbed one does not count. */
export const RECENT = 9;

export const medianOf = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

export class RecentMedian {
  readonly #values: number[] = [];
  readonly #every: number;
  #added = 0;
  #median: number | null = null;

  /**
   * `every`: with a full window, the median is recomputed only after this many values, where doing so per token would
   * cost too much.
   */
  constructor(every = 1) {
    this.#every = every;
  }

  add(value: number): void {
    if (this.#values.length < RECENT) this.#values.push(value);
    else this.#values[this.#added % RECENT] = value;
    if (++this.#added <= RECENT || this.#added % this.#every === 0) this.#median = medianOf(this.#values);
  }

  /** null while there are no values. */
  get value(): number | null {
    return this.#median;
  }
}
