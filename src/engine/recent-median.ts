/** Runs from which the next one is foreseen, by their median: one that was disturbed counts for nothing. */
const RECENT = 9;

export class RecentMedian {
  readonly #values: number[] = [];

  add(value: number): void {
    this.#values.push(value);
    if (this.#values.length > RECENT) this.#values.shift();
  }

  /** null: nothing yet. */
  get value(): number | null {
    return [...this.#values].sort((a, b) => a - b)[this.#values.length >> 1] ?? null;
  }
}
