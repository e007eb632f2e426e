import type {
  BeamParams,
  EngineRequest,
  FinishReason,
  RequestHandle,
  RequestListener,
  SamplingParams,
  TokenLogprob,
} from "../engine/request.ts";
import type { PrefixdError } from "../errors.ts";
import type { ConstraintSpec } from "../structured/constraint.ts";
import type { Constraints } from "./constraints.ts";
import type { AnswerLength } from "./lengths.ts";
import type { MeterParts, PhaseTimes, Timings } from "./meter.ts";
import type { RequestTokens } from "../observability/metrics.ts";
import type { PrefixRegistry } from "../prefixes/registry-types.ts";
import type { PrefixKey } from "../prefixes/store.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

export type { ConstraintSpec } from "../structured/constraint.ts";
export type { AnswerLength } from "./lengths.ts";

/** A generate request with all defaults filled in and all values checked, except what depends on the prefix. */
export interface ValidGenerateRequest extends AnswerLength {
  readonly id: string;
  /** Who sent it: whose share, limits and bill apply. */
  readonly user: string;
  /** The key that it came with; absent or null: none that could be deleted. */
  readonly keyId?: string | null;
  /** null: the bare base model. */
  readonly prefix: PrefixKey | null;
  /** At least one, each with at least one id. */
  readonly prompts: readonly Int32Array[];
  /** Choices per prompt. Choice c of prompt p has index `p * n + c`. */
  readonly n: number;
  /**
   * Choices generated per prompt, at least n, of which the n with the highest mean log probability are returned; null:
   * n, and all are.
   */
  readonly bestOf: number | null;
  /** null: no beam search. */
  readonly beams: BeamParams | null;
  /** Choices begin with the prompt: its text, ids and, with `logprobs`, log probabilities. */
  readonly echo: boolean;
  readonly sampling: SamplingParams;
  /** Unsigned 32-bit. Each prompt uses it as if it were alone. */
  readonly seed: number;
  /** Likeliest tokens to report with each token; null: no log probabilities at all. */
  readonly logprobs: number | null;
  readonly stop: readonly string[];
  /** Ids that end a choice like a stop string. */
  readonly stopTokenIds: readonly number[];
  readonly ignoreEos: boolean;
  /** What the answers' texts must be; null: anything. */
  readonly constraint: ConstraintSpec | null;
  /** Told once when it has ended, however it did, unless it was never submitted. Called before the listener. */
  readonly onEnd?: (ended: EndedRequest) => void;
}

/** What became of a submitted request. */
export interface EndedRequest {
  /** `ok`, or as metrics count it. */
  readonly outcome: string;
  readonly usage: RequestTokens;
  readonly phases: PhaseTimes;
  /** Of the choices that finished, in that order. */
  readonly finishReasons: readonly FinishReason[];
}

/** What one step added to one choice. */
export interface ChoiceDelta {
  readonly index: number;
  text: string;
  readonly tokenIds: number[];
  /** `token` is null for a prompt's first token. */
  readonly logprobs: { readonly token: (number | null)[]; readonly top: (readonly TokenLogprob[])[] };
  finishReason: FinishReason | null;
  /**
   * With beam search, transformers' sequences_scores; with `bestOf`, the mean log probability of the generated tokens.
   * Set at the end.
   */
  score: number | null;
}

export interface GenerationEnd {
  readonly prefix: { readonly key: PrefixKey; readonly digest: string } | null;
  /** `completion` counts all generated tokens, including those of choices and beams that are not returned. */
  readonly usage: RequestTokens;
  readonly timings: Timings;
  /** Why it was ended, if something that it needed was removed. */
  readonly removal?: PrefixdError;
}

/** Receives a request's results, in a microtask after the engine's step. Nothing is called after `end` or `onError`. */
export interface GenerationListener {
  /** At most one delta per choice. `end` comes with the step that ended the last choice. */
  onStep(deltas: readonly ChoiceDelta[], end: GenerationEnd | null): void;
  onError(error: PrefixdError): void;
}

/** The part of the engine that generation needs. Both throw `queue_full`. */
export interface GenerationEngine {
  submit(request: EngineRequest, listener: RequestListener): RequestHandle;
  refuseIfFull(tenant: string): void;
}

export interface GenerationParts extends MeterParts {
  readonly engine: GenerationEngine;
  readonly prefixes: Pick<PrefixRegistry, "resolve">;
  readonly tokenizer: Tokenizer;
  /** n_positions of the base model. */
  readonly positions: number;
  readonly eosIds: readonly number[];
  readonly allowBaseModel: boolean;
  /** Absent: no request has a constraint. */
  readonly constraints?: Constraints;
  readonly metrics: { request(outcome: string, seconds?: number, tokens?: RequestTokens): void };
  /** Asked again before results are delivered; see EngineOptions.mayEmit. */
  readonly mayEmit?: () => boolean;
}
