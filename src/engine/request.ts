import type { PrefixdError } from "../errors.ts";
import type { KvTensor } from "../kv.ts";

/** How the next token is chosen; names, meaning, order and defaults are transformers' `generate()`. Already validated. */
export interface SamplingParams {
  readonly doSample: boolean;
  readonly temperature: number;
  /** 0: off. */
  readonly topK: number;
  /** 1: off. */
  readonly topP: number;
  /** 0: off. */
  readonly minP: number;
  /** 1: off. */
  readonly repetitionPenalty: number;
  readonly minNewTokens: number;
}

/** One request as the engine takes it: token ids in, token ids out. Everything in it has been validated. */
export interface EngineRequest {
  readonly id: string;
  /** Whose share of the model it uses; opaque to the engine. */
  readonly tenant: string;
  /** At least one id. */
  readonly promptIds: Int32Array;
  readonly prefix: KvTensor | null;
  /** Choices to generate from the one prompt. */
  readonly n: number;
  readonly maxNewTokens: number;
  readonly sampling: SamplingParams;
  /** Unsigned 32-bit; choice i draws from the stream of (seed, i). */
  readonly seed: number;
  /** How many of the likeliest tokens to report with each token; 0: none. */
  readonly topLogprobs: number;
  /** Ids that end a choice; empty when EOS is to be ignored. */
  readonly eosIds: readonly number[];
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

export type FinishReason = "length" | "eos" | "stop" | "removed";

/**
 * How a request's results come back. All methods are called synchronously from the engine's step and must neither block nor throw.
 * After `onError`, or `onFinish` of every choice, nothing more is called.
 */
export interface RequestListener {
  /** The request left the queue and holds its slots. */
  onStart?(): void;
  /** Answer "stop" to end this choice with this token (a stop string has been completed). */
  onToken(event: TokenEvent): "continue" | "stop";
  onFinish(choice: number, reason: FinishReason): void;
  /** The whole request ended with an error; choices that had finished keep their result. */
  onError(error: PrefixdError): void;
}

export interface RequestHandle {
  /** Ends the request: its slots are free at the next step. With "removed" the listener hears `onFinish(i, "removed")`; with "cancelled" (client gone) it hears nothing more. */
  cancel(reason: "cancelled" | "removed"): void;
}
