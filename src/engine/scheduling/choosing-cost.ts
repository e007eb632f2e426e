import { RecentMedian } from "./recent-median.ts";

/**
 * What a token costs its tenant: a row of the model's run, and in units of that the time in which it was chosen and handed on. Penalties, warpers and
 * searches over a large vocabulary can take longer than the row itself, and all others wait for it. Medians, so that a pause of the
 * process is nobody's; of times, so that they may decide who is served next and nothing else.
 */
export class ChoosingCost {
  /** Milliseconds of a decode run by its rows. */
  readonly #row = new RecentMedian();

  /** Milliseconds of a run, a row of it; null: not known yet, or too little to compare with. */
  get row(): number | null {
    return this.#row.value || null;
  }

  ran(milliseconds: number, rows: number): void {
    this.#row.add(milliseconds / rows);
  }

  /**
   * Tokens to charge for `tokens` that a request was given at once.
   * @param times of the request, in milliseconds a token; this one is added
   */
  of(times: RecentMedian, milliseconds: number, tokens: number): number {
    if (tokens === 0) return 0;
    times.add(milliseconds / tokens);
    const { row } = this;
    return row === null ? tokens : tokens * (1 + times.value! / row);
  }
}
