/**
 * Zeroes what ended sequences left in the KV cache. A row holds a live part and, behind it, whatever longer sequences
 * wrote there before:
 *
 *     row r   [ live: 0 .. owned )[ stale: owned .. dirty )[ zero: dirty .. positions )
 *
 * Nothing reads the stale part, but it must not outlive its sequence.
 */
import type { ModelRunner } from "./runner.ts";

/** Positions of row `row` that a live sequence owns, from 0. */
export type OwnedPositions = (row: number) => number;

interface Job {
  /** Rows that have had a stale part ever since the job began; null before it begins. */
  rows: Set<number> | null;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

export class CacheWiper {
  readonly #runner: ModelRunner;
  /** High-water mark of each row, including the folding row: from here on the row is zero. */
  readonly #dirty: Int32Array;
  #jobs: Job[] = [];

  constructor(runner: ModelRunner) {
    this.#runner = runner;
    this.#dirty = new Int32Array(runner.slots + 1);
  }

  /** Positions below `end` of a row are about to be written. */
  written(row: number, end: number): void {
    if (end > this.#dirty[row]!) this.#dirty[row] = end;
  }

  get pending(): boolean {
    return this.#jobs.length > 0;
  }

  /** Resolves once every row has been free of stale data at some time after the next step began. */
  request(): Promise<void> {
    return new Promise((resolve, reject) => this.#jobs.push({ rows: null, resolve, reject }));
  }

  /**
   * The work of one step, between runs of the model. Wipes at most one row's positions, so that running sequences wait
   * no longer than it takes to fill one row. Every row gets its turn and later writes are not waited for, so a job
   * takes at most `slots` + 1 steps.
   */
  step(owned: OwnedPositions): void {
    try {
      const stale = (row: number): number => Math.max(0, this.#dirty[row]! - owned(row));
      const rows = Array.from(this.#dirty.keys()).filter((row) => stale(row) > 0);
      for (const job of this.#jobs) {
        if (job.rows === null) job.rows = new Set(rows);
        // Clean already: a live sequence has grown over the stale part.
        else for (const row of job.rows) if (stale(row) === 0) job.rows.delete(row);
      }
      let budget = this.#runner.shape.positions;
      for (const row of new Set(this.#jobs.flatMap((job) => [...(job.rows ?? [])]))) {
        if (stale(row) > budget) break;
        budget -= stale(row);
        this.#runner.wipe(row, owned(row), this.#dirty[row]!);
        this.#dirty[row] = owned(row);
        for (const job of this.#jobs) job.rows?.delete(row);
      }
      if (this.#jobs.some((job) => job.rows?.size === 0)) this.#runner.wipeBuffers();
    } catch (error) {
      for (const job of this.#jobs.splice(0)) job.reject(error);
      return;
    }
    const done = this.#jobs.filter((job) => job.rows?.size === 0);
    this.#jobs = this.#jobs.filter((job) => job.rows?.size !== 0);
    for (const job of done) job.resolve();
  }
}
