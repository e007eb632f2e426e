import { lostTouch, PrefixdError } from "./errors.ts";
import type { EngineRequest, FinishReason, RequestHandle, RequestListener, SamplingParams, TokenEvent, TokenLogprob } from "./engine/request.ts";
import { RequestMeter, type MeterParts } from "./generation-meter.ts";
import type { EngineStats } from "./observability/engine-observer.ts";
import type { RequestTokens } from "./observability/metrics.ts";
import type { PrefixRegistry, ResolvedPrefix } from "./prefixes/registry-types.ts";
import type { PrefixKey } from "./prefixes/store.ts";
import { StopStrings } from "./text/stop-strings.ts";
import { TextStream } from "./text/text-stream.ts";
import type { Tokenizer } from "./text/tokenizer.ts";

/** A generate request with every default filled in and every value checked, but for what only the prefix can tell. */
export interface ValidGenerateRequest {
  readonly id: string;
  /** Whose request it is: whose share, limits and bill. */
  readonly user: string;
  /** null: the bare base model. */
  readonly prefix: PrefixKey | null;
  /** At least one, each with at least one id. */
  readonly prompts: readonly Int32Array[];
  /** Choices per prompt. Choice c of prompt p has index `p * n + c`. */
  readonly n: number;
  readonly maxNewTokens: number;
  readonly sampling: SamplingParams;
  /** Unsigned 32-bit. Every prompt draws from it as if it were alone. */
  readonly seed: number;
  /** Likeliest tokens to report with each token; null: no log probabilities at all. */
  readonly logprobs: number | null;
  readonly stop: readonly string[];
  readonly ignoreEos: boolean;
}

/** What one step added to one choice. */
export interface ChoiceDelta {
  readonly index: number;
  text: string;
  readonly tokenIds: number[];
  readonly logprobs: { readonly token: number[]; readonly top: (readonly TokenLogprob[])[] };
  finishReason: FinishReason | null;
}

export interface GenerationEnd {
  readonly prefix: { readonly key: PrefixKey; readonly digest: string } | null;
  readonly usage: RequestTokens;
}

/** How a request's results come back: called from a microtask after the engine's step; after `end` or `onError` nothing more. */
export interface GenerationListener {
  /** At most one delta per choice. `end` comes with the step that ended the last choice. */
  onStep(deltas: readonly ChoiceDelta[], end: GenerationEnd | null): void;
  onError(error: PrefixdError): void;
}

/** What is needed of the engine. `submit` throws `queue_full`. */
export interface GenerationEngine {
  submit(request: EngineRequest, listener: RequestListener): RequestHandle;
  stats(): EngineStats;
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

/** One taken-in request: its engine requests (one per prompt), the text of its choices, and what has not been handed over yet. */
export class Generation {
  readonly #request: ValidGenerateRequest;
  readonly #listener: GenerationListener;
  readonly #parts: GenerationParts;
  readonly #onEnd: (self: Generation) => void;
  readonly #startedAt = performance.now();
  readonly #meter: RequestMeter;
  readonly #texts: TextStream[];
  readonly #handles: RequestHandle[] = [];
  readonly #eos: ReadonlySet<number>;
  #pending = new Map<number, ChoiceDelta>();
  #flushQueued = false;
  #sent = false;
  #started = false;
  /** Why it must not be submitted any more. */
  #refusal: PrefixdError | null = null;
  #removed = false;
  #over = false;
  #open: number;
  #completionTokens = 0;
  #prefix: ResolvedPrefix | null = null;
  #markEnded: () => void = () => {};
  /** Resolves when nothing of it runs any more. */
  readonly ended = new Promise<void>((resolve) => (this.#markEnded = resolve));

  constructor(request: ValidGenerateRequest, listener: GenerationListener, parts: GenerationParts, onEnd: (self: Generation) => void) {
    this.#request = request;
    this.#listener = listener;
    this.#parts = parts;
    this.#onEnd = onEnd;
    this.#meter = new RequestMeter(request, parts);
    this.#open = request.prompts.length * request.n;
    const stops = new StopStrings(request.stop);
    this.#texts = Array.from({ length: this.#open }, () => new TextStream(parts.tokenizer, stops));
    this.#eos = new Set(request.ignoreEos ? [] : parts.eosIds);
  }

  uses(key: PrefixKey): boolean {
    return this.#request.prefix?.user === key.user && this.#request.prefix.name === key.name;
  }

  /** Throws `token_rate_exceeded`. */
  admit(): Promise<void> {
    return this.#meter.admit();
  }

  /** Whose removal ends it: who sent it, and the owner of its prefix. */
  get users(): readonly string[] {
    const { user, prefix } = this.#request;
    return prefix === null || prefix.user === user ? [user] : [user, prefix.user];
  }

  /** Whether the engine has begun with it. */
  get started(): boolean {
    return this.#started;
  }

  submit(prefix: ResolvedPrefix | null, signal: AbortSignal): void {
    if (this.#refusal !== null) throw this.#refusal;
    if (this.#removed) throw new PrefixdError("prefix_not_found", "There is no prefix of this name.");
    this.#prefix = prefix;
    this.#checkContext(prefix?.kv.length ?? 0);
    const { id, user, n, maxNewTokens, sampling, seed } = this.#request;
    const common = { tenant: user, prefix: prefix?.kv ?? null, n, maxNewTokens, sampling, seed, topLogprobs: this.#request.logprobs ?? 0, eosIds: [...this.#eos] };
    this.#meter.submitted();
    try {
      for (const [p, promptIds] of this.#request.prompts.entries()) {
        this.#handles.push(this.#parts.engine.submit({ id: `${id}-${p}`, promptIds, ...common }, this.#engineListener(p)));
      }
    } catch (error) {
      // Nothing has run yet: the engine steps only after this turn of the event loop.
      this.#cancel("cancelled");
      throw error;
    }
    signal.addEventListener("abort", () => this.#finish(abortOutcome(signal), true), { once: true });
  }

  /** Ends it because its prefix is gone; resolves when it has ended. One that has not been submitted yet will not be. */
  remove(): Promise<void> {
    this.#removed = true;
    this.#cancel("removed");
    return this.#handles.length > 0 ? this.ended : Promise.resolve();
  }

  /** It was never taken in. */
  discard(): void {
    this.#over = true;
    this.#meter.refuse();
    this.#markEnded();
  }

  fail(error: PrefixdError): void {
    if (this.#over) return;
    if (this.#handles.length === 0) {
      // Still being looked up: whoever submits it hears of it.
      this.#refusal ??= error;
      return;
    }
    if (this.#pending.size > 0 && this.#mayEmit()) this.#flush();
    if (this.#finish(error.code, true)) this.#listener.onError(error);
  }

  #checkContext(prefixLength: number): void {
    const { positions } = this.#parts;
    for (const [p, prompt] of this.#request.prompts.entries()) {
      const total = prefixLength + prompt.length + this.#request.maxNewTokens;
      // The last new token is never fed back, so it needs no position.
      if (total <= positions + 1) continue;
      const which = this.#request.prompts.length > 1 ? ` of prompts[${p}]` : "";
      throw new PrefixdError(
        "context_exceeded",
        `${prefixLength} prefix + ${prompt.length} prompt${which} + ${this.#request.maxNewTokens} new tokens are ${total}; the model takes ${positions + 1}.`,
      );
    }
  }

  #engineListener(prompt: number): RequestListener {
    const firstChoice = prompt * this.#request.n;
    return {
      onStart: () => {
        this.#started = true;
        this.#meter.started(prompt);
      },
      onToken: (event) => this.#onToken(prompt, firstChoice + event.choice, event),
      onFinish: (choice, reason) => this.#onFinish(firstChoice + choice, reason),
      onError: (error) => this.fail(error),
    };
  }

  #onToken(prompt: number, index: number, event: TokenEvent): "continue" | "stop" {
    if (this.#over) return "stop";
    this.#completionTokens++;
    this.#meter.started(prompt);
    this.#meter.token();
    try {
      const delta = this.#delta(index);
      delta.tokenIds.push(event.id);
      if (this.#request.logprobs !== null) {
        delta.logprobs.token.push(event.logprob);
        delta.logprobs.top.push(event.top);
      }
      if (this.#eos.has(event.id)) return "continue";
      const { text, stopped } = (this.#texts[index] as TextStream).push(event.id);
      delta.text += text;
      return stopped ? "stop" : "continue";
    } catch (error) {
      this.fail(new PrefixdError("internal", "The text could not be made.", { cause: error }));
      return "stop";
    }
  }

  #onFinish(index: number, reason: FinishReason): void {
    if (this.#over) return;
    try {
      const delta = this.#delta(index);
      if (reason !== "stop") delta.text += (this.#texts[index] as TextStream).end();
      delta.finishReason = reason;
      this.#open--;
    } catch (error) {
      this.fail(new PrefixdError("internal", "The text could not be made.", { cause: error }));
    }
  }

  /** The delta of a choice in this step. Whatever one step brings for all choices is handed over together, right after it. */
  #delta(index: number): ChoiceDelta {
    let delta = this.#pending.get(index);
    if (!delta) {
      delta = emptyDelta(index);
      this.#pending.set(index, delta);
    }
    if (!this.#flushQueued) {
      this.#flushQueued = true;
      queueMicrotask(() => this.#flush());
    }
    return delta;
  }

  #flush(): void {
    this.#flushQueued = false;
    if (this.#over || this.#pending.size === 0) return;
    if (!this.#mayEmit()) return this.fail(lostTouch());
    const deltas = [...this.#pending.values()].sort((a, b) => a.index - b.index);
    this.#pending = new Map();
    const removed = deltas.some((delta) => delta.finishReason === "removed");
    if (removed && !this.#sent) return this.fail(removedError());
    this.#sent = true;
    if (this.#open > 0) return this.#listener.onStep(deltas, null);
    this.#finish(removed ? "removed" : "ok", false);
    const key = this.#request.prefix;
    this.#listener.onStep(deltas, { prefix: this.#prefix && key ? { key, digest: this.#prefix.digest } : null, usage: this.#usage() });
  }

  #mayEmit(): boolean {
    return this.#parts.mayEmit?.() ?? true;
  }

  #usage(): RequestTokens {
    const prompt = this.#request.prompts.reduce((sum, ids) => sum + ids.length, 0);
    return { prefix: this.#prefix?.kv.length ?? 0, prompt, completion: this.#completionTokens };
  }

  /** Marks the end, once; false: it was over already. */
  #finish(outcome: string, cancel: boolean): boolean {
    if (this.#over) return false;
    this.#over = true;
    if (cancel) this.#cancel("cancelled");
    this.#onEnd(this);
    this.#markEnded();
    this.#meter.ended(this.#prefix?.kv.length ?? 0);
    this.#parts.metrics.request(outcome, (performance.now() - this.#startedAt) / 1000, this.#usage());
    return true;
  }

  #cancel(reason: "cancelled" | "removed"): void {
    for (const handle of this.#handles) handle.cancel(reason);
  }
}

export const emptyDelta = (index: number): ChoiceDelta => ({ index, text: "", tokenIds: [], logprobs: { token: [], top: [] }, finishReason: null });

export const removedError = (): PrefixdError => new PrefixdError("removed", "The prefix was removed before the answer was complete.");
export const abortOutcome = (signal: AbortSignal): string => (signal.reason === "too_slow" ? "too_slow" : "cancelled");
