/** Values from which the next one is foreseen, by their median: one that was disturbed counts for nothing. */
export const RECENT = 9;

export const medianOf = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

export class RecentMedian {
  readonly #values: number[] = [];
  readonly #every: number;
  #added = 0;
  #median: number | null = null;

  /** `every`: once there are enough values, the median is found anew after so many, where one a token would cost more than it tells. */
  constructor(every = 1) {
    this.#every = every;
  }

  add(value: number): void {
    if (this.#values.length < RECENT) this.#values.push(value);
    else this.#values[this.#added % RECENT] = value;
    if (++this.#added <= RECENT || this.#added % this.#every === 0) this.#median = medianOf(this.#values);
  }

  /** null: nothing yet. */
  get value(): number | null {
    return this.#median;
  }
}
