import type { FoldInput, KvTensor, ModelShape } from "../kv.ts";

/**
 * The output of one run of the model, in `b` rows. Views of the runner's own buffers, possibly longer than needed;
 * valid until the next run.
 */
export interface StepOutput {
  readonly rows: number;
  /** Candidates per row, `<= vocabSize`. */
  readonly candidates: number;
  /** `[b, candidates]`, descending; equal values in ascending order of id. */
  readonly topLogits: Float32Array;
  /** `[b, candidates]` */
  readonly topIds: Int32Array;
  /** `[b]`: log of the sum of exp of all logits. */
  readonly logSumExp: Float32Array;
  /** All logits of one row, `[vocabSize]`: the exact path when the candidates cannot decide. */
  logits(row: number): Float32Array;
}

/**
 * Which of the tokens fed get a row of output: none, in which case the output must not be read; the last one; or all of
 * them.
 */
export type Answers = "none" | "last" | "all";

/** Prompt tokens `ids` for positions `[start, start + ids.length)` of a row. */
export interface PromptChunk {
  readonly row: number;
  readonly start: number;
  readonly ids: Int32Array;
}

/**
 * A model with a KV cache of `slots` rows. One call at a time: the engine serialises. Errors are `PrefixdError`
 * model_failed.
 */
export interface ModelRunner {
  readonly shape: ModelShape;
  /** Rows of the KV cache that sequences may use. */
  readonly slots: number;
  /** Most tokens per call of `prefill`, `prefillAll` and `fold`. */
  readonly longestChunk: number;
  /** Most chunks per call of `prefillAll`; 1: `prefillAll` is not supported. */
  readonly promptsAtOnce: number;
  /**
   * Whether the last bits of a prompt's numbers depend on where it is cut into chunks. If so, a prompt must always be
   * cut at the same places. Ignores cuts that leave a one-token chunk: the scheduler never makes them where this is
   * false.
   */
  readonly chunkingChangesBits: boolean;
  /** Copies a prefix into positions `[0, prefix.length)` of a row. This and `prefill` also accept row `slots`. */
  loadPrefix(row: number, prefix: KvTensor): void;
  /** Copies positions `[start, length)` of row `from` to row `to`; the rows are equal before `start`. */
  copyRow(from: number, to: number, length: number, start: number): void;
  /**
   * Feeds `ids` to one row at positions `[start, start + ids.length)`. `answers` changes no bit of what the row then
   * holds, nor of the last token's output.
   */
  prefill(row: number, start: number, ids: Int32Array, answers: Answers): Promise<StepOutput>;
  /** Feeds chunks of prompts to different rows in one run. The output has one row per chunk: that of its last token. */
  prefillAll(chunks: readonly PromptChunk[]): Promise<StepOutput>;
  /**
   * Feeds one token to each of rows `[0, ids.length)`. `positions[r]` is also the number of tokens already in row r.
   */
  decode(ids: Int32Array, positions: Int32Array): Promise<StepOutput>;
  /**
   * Feeds positions `[from, to)` of a soft or hard prompt to row `slots`, which no sequence uses: chunk by chunk, from
   * 0 on.
   */
  fold(input: FoldInput, from: number, to: number): Promise<void>;
  /** A copy of the keys and values at the first `length` positions of a row; row `slots` holds what was folded. */
  read(row: number, length: number): Promise<KvTensor>;
  /** Zeroes positions `[from, to)` of a row; row `slots` is the one used for folding. */
  wipe(row: number, from: number, to: number): void;
  /** Zeroes the inputs and outputs of the last run. */
  wipeBuffers(): void;
  close(): Promise<void>;
}
