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
import type { AnswerLength } from "./lengths.ts";
import type { MeterParts } from "./meter.ts";
import type { RequestTokens } from "../observability/metrics.ts";
import type { PrefixRegistry } from "../prefixes/registry-types.ts";
import type { PrefixKey } from "../prefixes/store.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

export type { AnswerLength } from "./lengths.ts";

/** A generate request with every default filled in and every value checked, but for what only the prefix can tell. */
export interface ValidGenerateRequest extends AnswerLength {
  readonly id: string;
  /** Whose request it is: whose share, limits and bill. */
  readonly user: string;
  /** null: the bare base model. */
  readonly prefix: PrefixKey | null;
  /** At least one, each with at least one id. */
  readonly prompts: readonly Int32Array[];
  /** Choices per prompt. Choice c of prompt p has index `p * n + c`. */
  readonly n: number;
  /** So many choices are generated per prompt, at least n; the n whose tokens are the likeliest on average are the answer. null: all are. */
  readonly bestOf: number | null;
  /** null: no beam search. */
  readonly beams: BeamParams | null;
  /** The choices begin with the prompt: text, ids and, with `logprobs`, its tokens' log probabilities. */
  readonly echo: boolean;
  readonly sampling: SamplingParams;
  /** Unsigned 32-bit. Every prompt draws from it as if it were alone. */
  readonly seed: number;
  /** Likeliest tokens to report with each token; null: no log probabilities at all. */
  readonly logprobs: number | null;
  readonly stop: readonly string[];
  /** Ids that end a choice as a stop string does. */
  readonly stopTokenIds: readonly number[];
  readonly ignoreEos: boolean;
}

/** What one step added to one choice. */
export interface ChoiceDelta {
  readonly index: number;
  text: string;
  readonly tokenIds: number[];
  /** `token` is null for a prompt's first token. */
  readonly logprobs: { readonly token: (number | null)[]; readonly top: (readonly TokenLogprob[])[] };
  finishReason: FinishReason | null;
  /** Of beam search transformers' sequences_scores, with `bestOf` the mean log probability of the generated tokens; comes with the end. */
  score: number | null;
}

export interface GenerationEnd {
  readonly prefix: { readonly key: PrefixKey; readonly digest: string } | null;
  /** `completion` counts all tokens generated, also those of choices and beams that are not in the answer. */
  readonly usage: RequestTokens;
}

/** How a request's results come back: called from a microtask after the engine's step; after `end` or `onError` nothing more. */
export interface GenerationListener {
  /** At most one delta per choice. `end` comes with the step that ended the last choice. */
  onStep(deltas: readonly ChoiceDelta[], end: GenerationEnd | null): void;
  onError(error: PrefixdError): void;
}

/** What is needed of the engine. Both throw `queue_full`. */
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
  readonly metrics: { request(outcome: string, seconds?: number, tokens?: RequestTokens): void };
  /** Asked again before results are handed over; see EngineOptions.mayEmit. */
  readonly mayEmit?: () => boolean;
}
