import type { PrefixdError } from "../errors.ts";
import type { KvTensor } from "../kv.ts";

/**
 * How the next token is chosen; names, meaning, order and defaults are transformers' `generate()`, and vLLM's where it has none.
 * Already validated.
 */
export interface SamplingParams {
  /** Added to the logits of these ids; finite. */
  readonly logitBias: ReadonlyMap<number, number>;
  /** The same for the last id of a sequence, where the ids before came; finite. A single id's takes the place of its `logitBias`. */
  readonly sequenceBias: readonly { readonly ids: readonly number[]; readonly bias: number }[];
  /** 1: off. Over prompt and generated ids. */
  readonly repetitionPenalty: number;
  /** 0: off. Times how often an id has been generated. */
  readonly frequencyPenalty: number;
  /** 0: off. Of ids that have been generated. */
  readonly presencePenalty: number;
  /** 0: off. Over prompt and generated ids. */
  readonly noRepeatNgramSize: number;
  /** Sequences of ids, each not empty, that must not be completed. */
  readonly badWords: readonly (readonly number[])[];
  readonly minNewTokens: number;
  /** Ids that must not come, and ids that must not come first. */
  readonly suppressIds: readonly number[];
  readonly beginSuppressIds: readonly number[];
  /** Comes first if the prompt is one token long, as in transformers; null: off. */
  readonly forcedBosId: number | null;
  /** One of `ids`, of which there is one at least, comes as the token of this index, from 0; null: off. */
  readonly forcedLast: { readonly ids: readonly number[]; readonly index: number } | null;
  /** After `start` tokens each one changes the score of EOS by this factor more; null: off. */
  readonly exponentialDecay: { readonly start: number; readonly factor: number } | null;
  /** Of beam search only, where it changes sums; of one token's distribution it changes nothing. */
  readonly renormalize: boolean;
  /** Without it nothing below has an effect. */
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

/** What `generate()` does when it is told nothing. */
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

/** Beam search; names, meaning and results are transformers' `generate()`. */
export interface BeamParams {
  readonly numBeams: number;
  /** Scores are divided by the number of generated tokens to this power. */
  readonly lengthPenalty: number;
  readonly earlyStopping: boolean | "never";
}

/** Follows the tokens of one sequence to where it is to end, beside EOS. Never changes, so beams that fork share it. */
export interface TokenStop {
  /** After one token more; null: the sequence ends with it. */
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
  /** Choices to generate from the one prompt; with `beams` the best so many of them, at most `numBeams`. */
  readonly n: number;
  /** null: each choice chooses its tokens by itself. */
  readonly beams: BeamParams | null;
  /** What may end a beam; null: EOS alone. Choices that are none are ended by what `onToken` answers. */
  readonly beamStop: TokenStop | null;
  /** Report the prompt's own log probabilities, through `onPrompt`. */
  readonly scorePrompt: boolean;
  /** 0: nothing but the prompt is run; not with `beams`. */
  readonly maxNewTokens: number;
  readonly sampling: SamplingParams;
  /** Unsigned 32-bit; choice i draws from the stream of (seed, i), beams from that of (seed, 0). */
  readonly seed: number;
  /** How many of the likeliest tokens to report with each token; 0: none. */
  readonly topLogprobs: number;
  /** Ids that end a choice; empty when EOS is to be ignored. */
  readonly eosIds: readonly number[];
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

/** One token of the prompt: what the model gave it, and what it held likeliest in its place. The first one has no logprob: nothing came before. */
export interface PromptScore {
  readonly id: number;
  readonly logprob: number | null;
  readonly top: readonly TokenLogprob[];
}

export type FinishReason = "length" | "eos" | "stop" | "removed";

/**
 * How a request's results come back. All methods are called synchronously from the engine's step and must neither block nor throw.
 * After `onError`, or `onFinish` of every choice, nothing more is called.
 */
export interface RequestListener {
  /** The request left the queue and holds its slots. */
  onStart?(): void;
  /** With `scorePrompt`: all of the prompt's tokens, once, before any token comes. */
  onPrompt?(tokens: readonly PromptScore[]): void;
  /** Beam search has computed so many tokens more, one per beam. Its results come at the end: all of a choice's tokens, then its `onFinish`. */
  onBeamStep?(tokens: number): void;
  /** Answer "stop" to end this choice with this token (it completes a stop string, say); beams do not listen. */
  onToken(event: TokenEvent): "continue" | "stop";
  /** `score`: the whole sequence's, of beam search only. */
  onFinish(choice: number, reason: FinishReason, score?: number): void;
  /** The whole request ended with an error; choices that had finished keep their result. */
  onError(error: PrefixdError): void;
}

export interface RequestHandle {
  /** Ends the request: its slots are free at the next step. With "removed" the listener hears `onFinish(i, "removed")`; with "cancelled" (client gone) it hears nothing more. */
  cancel(reason: "cancelled" | "removed"): void;
}
