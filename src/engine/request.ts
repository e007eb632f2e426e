import type { PrefixdError } from "../errors.ts";
import type { KvTensor } from "../kv.ts";
import type { TokenConstraint } from "./constraint.ts";

/**
 * How the next token is chosen; names, meaning, order and defaults are transformers' `generate()`, and vLLM's where it
 * has none. Already validated.
 */
export interface SamplingParams {
  /** Added to the logits of these ids; finite. */
  readonly logitBias: ReadonlyMap<number, number>;
  /**
   * Added to the logit of a sequence's last id, where the ids before it have come; finite. For a single id, replaces
   * its `logitBias`.
   */
  readonly sequenceBias: readonly { readonly ids: readonly number[]; readonly bias: number }[];
  /** 1: off. Over prompt and generated ids. */
  readonly repetitionPenalty: number;
  /** 0: off. Multiplied by how often an id has been generated. */
  readonly frequencyPenalty: number;
  /** 0: off. Applies to ids that have been generated. */
  readonly presencePenalty: number;
  /** 0: off. Over prompt and generated ids. */
  readonly noRepeatNgramSize: number;
  /** Non-empty sequences of ids that must not be completed. */
  readonly badWords: readonly (readonly number[])[];
  readonly minNewTokens: number;
  /** Ids that must never come, and ids that must not come first. */
  readonly suppressIds: readonly number[];
  readonly beginSuppressIds: readonly number[];
  /** Comes first if the prompt is one token long, as in transformers; null: off. */
  readonly forcedBosId: number | null;
  /** The token at `index`, from 0, is one of `ids`, which are not empty; null: off. */
  readonly forcedLast: { readonly ids: readonly number[]; readonly index: number } | null;
  /** After `start` tokens, each further one multiplies the score of EOS by `factor`; null: off. */
  readonly exponentialDecay: { readonly start: number; readonly factor: number } | null;
  /** Matters only to beam search, where it changes sums of scores; a single token's distribution stays the same. */
  readonly renormalize: boolean;
  /** If false, nothing below has an effect. */
  readonly doSample: boolean;
  readonly temperature: number;
  /** null: off. */
  readonly topH: number | null;
  /** 0: off. */
  readonly topK: number;
  /** 1: off. */
  readonly topP: number;
  /** 0: off. */
  readonly minP: number;
  /** 1: off. */
  readonly typicalP: number;
  /** 0: off. */
  readonly epsilonCutoff: number;
  /** 0: off. */
  readonly etaCutoff: number;
}

/** The defaults of `generate()`. */
export const DEFAULT_SAMPLING: SamplingParams = Object.freeze({
  logitBias: new Map<number, number>(),
  sequenceBias: [],
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  noRepeatNgramSize: 0,
  badWords: [],
  minNewTokens: 0,
  suppressIds: [],
  beginSuppressIds: [],
  forcedBosId: null,
  forcedLast: null,
  exponentialDecay: null,
  renormalize: false,
  doSample: false,
  temperature: 1,
  topH: null,
  topK: 50,
  topP: 1,
  minP: 0,
  typicalP: 1,
  epsilonCutoff: 0,
  etaCutoff: 0,
});

/** Beam search, with the names, meaning and results of transformers' `generate()`. */
export interface BeamParams {
  readonly numBeams: number;
  /** Scores are divided by the number of generated tokens to this power. */
  readonly lengthPenalty: number;
  readonly earlyStopping: boolean | "never";
}

/** Follows one sequence's tokens to where it must end, apart from EOS. Immutable, so forked beams share it. */
export interface TokenStop {
  /** The state after one more token; null if the sequence ends with it. */
  after(id: number): TokenStop | null;
}

/** One request as the engine takes it: token ids in, token ids out. Everything in it has been validated. */
export interface EngineRequest {
  readonly id: string;
  /** Whose share of the model it uses; opaque to the engine. */
  readonly tenant: string;
  /** At least one id. */
  readonly promptIds: Int32Array;
  readonly prefix: KvTensor | null;
  /** What snapshots call the prefix; opaque to the engine. */
  readonly prefixId?: string | null;
  /** Choices to generate from the prompt. With `beams`, how many of the best beams to return, at most `numBeams`. */
  readonly n: number;
  /** null: no beam search; each choice is sampled on its own. */
  readonly beams: BeamParams | null;
  /** What may end a beam besides EOS; null: nothing. Other choices end by the answer of `onToken`. */
  readonly beamStop: TokenStop | null;
  /** Report the prompt's own log probabilities, through `onPrompt`. */
  readonly scorePrompt: boolean;
  /** 0: only the prompt is run; not with `beams`. */
  readonly maxNewTokens: number;
  readonly sampling: SamplingParams;
  /** Unsigned 32-bit; choice i draws from the stream of (seed, i), beams from that of (seed, 0). */
  readonly seed: number;
  /** How many of the likeliest tokens to report with each token; 0: none. */
  readonly topLogprobs: number;
  /** Ids that end a choice; empty when EOS is to be ignored. */
  readonly eosIds: readonly number[];
  /** What may come, at the beginning of each choice; null or absent: anything. Its first mask is known. */
  readonly constraint?: TokenConstraint | null;
  /** Work done to prepare the constraint, which its tenant is charged with. */
  readonly preparation?: number;
}

/** Rows of the KV cache that a request takes: one per choice, or per beam. */
export function rowsOf({ n, beams }: Pick<EngineRequest, "n" | "beams">): number {
  return beams?.numBeams ?? n;
}

export interface TokenLogprob {
  readonly id: number;
  readonly logprob: number;
}

/** One generated token. `logprob` is the model's raw one, before any processor. */
export interface TokenEvent extends TokenLogprob {
  readonly choice: number;
  readonly top: readonly TokenLogprob[];
}

/**
 * The score of one prompt token, and the tokens the model found likeliest in its place. The first token has none:
 * nothing precedes it.
 */
export interface PromptScore {
  readonly id: number;
  readonly logprob: number | null;
  readonly top: readonly TokenLogprob[];
}

export type FinishReason = "length" | "eos" | "stop" | "removed";

/**
 * Receives a request's results. All methods are called synchronously from the engine's step and must neither block nor
 * throw. Nothing is called after `onError`, or after every choice's `onFinish`.
 */
export interface RequestListener {
  /** The request left the queue and holds its slots. */
  onStart?(): void;
  /** With `scorePrompt`: the scores of all prompt tokens, once, before the first generated token. */
  onPrompt?(tokens: readonly PromptScore[]): void;
  /**
   * Beam search has computed this many more tokens, one per beam. Results come at the end: all of a choice's tokens,
   * then its `onFinish`.
   */
  onBeamStep?(tokens: number): void;
  /**
   * Return "stop" to end the choice with this token, because it completes a stop string, for example. Ignored for
   * beams.
   */
  onToken(event: TokenEvent): "continue" | "stop";
  /** `score`: of the whole sequence; beam search only. */
  onFinish(choice: number, reason: FinishReason, score?: number): void;
  /** The whole request failed; choices that had finished keep their result. */
  onError(error: PrefixdError): void;
}

export interface RequestHandle {
  /**
   * Ends the request; its slots are free at the next step. "removed" calls `onFinish(i, "removed")`; "cancelled" (the
   * client left) calls nothing more.
   */
  cancel(reason: "cancelled" | "removed"): void;
}
