import type { FoldInput, KvTensor, ModelShape } from "../kv.ts";

/** What one run of the model answers, in `b` rows. Views into the runner's own buffers, which may be longer: valid until the next run. */
export interface StepOutput {
  readonly rows: number;
  /** Candidates of a row, `<= vocabSize`. */
  readonly candidates: number;
  /** `[b, candidates]`, descending; equal values in ascending order of id. */
  readonly topLogits: Float32Array;
  /** `[b, candidates]` */
  readonly topIds: Int32Array;
  /** `[b]`: log of the sum of exp of all logits. */
  readonly logSumExp: Float32Array;
  /** All logits of one row, `[vocabSize]`: the exact path for what the candidates cannot decide. */
  logits(row: number): Float32Array;
}

/** Which of the tokens that a run is fed have a row in its output: none, so that there is nothing to read in it; the last one; or each. */
export type Answers = "none" | "last" | "all";

/** Tokens `ids` of a prompt, for positions `[start, start + ids.length)` of a row. */
export interface PromptChunk {
  readonly row: number;
  readonly start: number;
  readonly ids: Int32Array;
}

/** A model with a KV cache of `slots` rows. One call at a time: the engine serialises. Errors are `PrefixdError` model_failed. */
export interface ModelRunner {
  readonly shape: ModelShape;
  /** Rows of the KV cache that sequences may use. */
  readonly slots: number;
  /** Tokens that `prefill`, `prefillAll` and `fold` may be given at once. */
  readonly longestChunk: number;
  /** Chunks that `prefillAll` may be given; 1: it is not there to be called. */
  readonly promptsAtOnce: number;
  /**
   * Whether the last bits of a prompt's numbers depend on where it was cut into chunks, so that the same prompt must always be cut at
   * the same places. Ignores cuts that leave a one-token chunk: the scheduler never makes them where this is false.
   */
  readonly chunkingChangesBits: boolean;
  /** Copies a prefix into positions `[0, prefix.length)` of a row; this and `prefill` may be given row `slots` too. */
  loadPrefix(row: number, prefix: KvTensor): void;
  /** Copies positions `[start, length)` of row `from` to row `to`; before `start` they are the same already. */
  copyRow(from: number, to: number, length: number, start: number): void;
  /**
   * Feeds `ids` to one row at positions `[start, start + ids.length)`. What is answered changes no bit of what the row holds then, nor of the
   * last token's output.
   */
  prefill(row: number, start: number, ids: Int32Array, answers: Answers): Promise<StepOutput>;
  /** Feeds chunks of prompts to different rows in one run; the output has one row for each, that of its last token. */
  prefillAll(chunks: readonly PromptChunk[]): Promise<StepOutput>;
  /** Feeds one token to each of rows `[0, ids.length)`; `positions[r]` is also the number of tokens already in row r. */
  decode(ids: Int32Array, positions: Int32Array): Promise<StepOutput>;
  /**
   * Feeds positions `[from, to)` of a soft or hard prompt to row `slots`, which no sequence uses, as `prefill` does: chunk after chunk, from 0 on.
   */
  fold(input: FoldInput, from: number, to: number): Promise<void>;
  /** A copy of the keys and values of that row's first `length` positions. */
  folded(length: number): KvTensor;
  /** Fills positions `[from, to)` of a row with zeros; row `slots` is the one that folding uses. */
  wipe(row: number, from: number, to: number): void;
  /** Fills what the last run was fed and answered with zeros. */
  wipeBuffers(): void;
  close(): Promise<void>;
}
