import type { ModelRunner } from "./runner.ts";
import type { Sequence } from "./sequence.ts";
import type { CacheWiper } from "./kv-wiper.ts";

/** One token per row, in row order. */
export interface DecodeBatch {
  readonly sequences: readonly Sequence[];
  readonly ids: Int32Array;
  readonly positions: Int32Array;
}

/** The running sequences. Row r of the batch is row r of the KV cache, so rows stay dense. */
export class Rows {
  readonly #runner: ModelRunner;
  readonly #wiper: CacheWiper;
  readonly #sequences: Sequence[] = [];

  constructor(runner: ModelRunner, wiper: CacheWiper) {
    this.#runner = runner;
    this.#wiper = wiper;
  }

  get sequences(): readonly Sequence[] {
    return this.#sequences;
  }

  get count(): number {
    return this.#sequences.length;
  }

  /**
   * Adds sequences that begin with the `length` positions of row `from`. Without `copies`, only the first one's row
   * gets them.
   */
  add(sequences: readonly Sequence[], from: number, length: number, copies: boolean): void {
    const first = this.count;
    if (from !== first) this.copy(from, first, length);
    for (const sequence of sequences) {
      const row = this.#sequences.push(sequence) - 1;
      if (row !== first && copies) this.copy(first, row, length);
      sequence.length = length;
    }
  }

  /** Frees the rows of sequences that have ended; the last row moves into the gap. */
  releaseEnded(): void {
    for (let row = this.#sequences.length - 1; row >= 0; row--) {
      if (!this.#sequences[row]!.done) continue;
      const lastRow = this.#sequences.length - 1;
      const last = this.#sequences[lastRow]!;
      if (row !== lastRow) this.copy(lastRow, row, last.length);
      this.#sequences[row] = last;
      this.#sequences.pop();
    }
  }

  copy(from: number, to: number, length: number, start = 0): void {
    this.#wiper.written(to, length);
    this.#runner.copyRow(from, to, length, start);
  }

  /** The input of the next decode step. */
  batch(): DecodeBatch {
    const sequences = this.#sequences.slice();
    const ids = new Int32Array(sequences.length);
    const positions = new Int32Array(sequences.length);
    for (let row = 0; row < sequences.length; row++) {
      const { lastId, length } = sequences[row]!;
      ids[row] = lastId;
      positions[row] = length;
      this.#wiper.written(row, length + 1);
    }
    return { sequences, ids, positions };
  }
}
