import { RecentMedian } from "./recent-median.ts";

/**
 * What a token costs its tenant: its row of the model's run, plus the time to choose it and pass it on, in units of
 * such a row. Penalties, warpers and searches over a large vocabulary can take longer than the row itself, and
 * everybody waits for them. Medians, so that nobody is charged for a pause of the process. These are times, so they may
 * only decide who is served next, never what is generated.
 */
export class ChoosingCost {
  /** Milliseconds of a decode run, per row. */
  readonly #row = new RecentMedian();

  /** Milliseconds per row of a run; null: not known yet, or too short to compare with. */
  get row(): number | null {
    return this.#row.value || null;
  }

  ran(milliseconds: number, rows: number): void {
    this.#row.add(milliseconds / rows);
  }

  /**
   * Tokens to charge for `tokens` tokens that a request got at once.
   * @param times of the request, in milliseconds per token; this time is added
   */
  of(times: RecentMedian, milliseconds: number, tokens: number): number {
    if (tokens === 0) return 0;
    times.add(milliseconds / tokens);
    const { row } = this;
    return row === null ? tokens : tokens * (1 + times.value! / row);
  }
}
