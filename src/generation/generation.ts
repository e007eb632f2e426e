import { lostTouch, PrefixdError } from "../errors.ts";
import type { EngineRequest, FinishReason, RequestHandle, RequestListener, TokenEvent } from "../engine/request.ts";
import { Choices, choicesPerPrompt, type ChoicesParts } from "./choices.ts";
import type { PreparedConstraint } from "./constraints.ts";
import { lengthsOf, mostNewTokens, samplingFor } from "./lengths.ts";
import { RequestMeter } from "./meter.ts";
import type { GenerationListener, GenerationParts, ValidGenerateRequest } from "./types.ts";
import type { RequestTokens } from "../observability/metrics.ts";
import type { ResolvedPrefix } from "../prefixes/registry-types.ts";
import type { PrefixKey } from "../prefixes/store.ts";
import { seenByStops, StopProgress, Stops } from "../text/stop-strings.ts";

export type * from "./types.ts";

/**
 *     admitting ──submit──▶ running ──end──▶ ended
 *         └────────────────end───────────────▲
 */
type State = Admitting | Running | { readonly name: "ended" };

/** Its prefix is being looked up, or its tokens are being reserved. */
interface Admitting {
  readonly name: "admitting";
  /** Why it must not be submitted. */
  refusal: PrefixdError | null;
}

/** In the engine. */
interface Running {
  readonly name: "running";
  readonly prefix: ResolvedPrefix | null;
  readonly choices: Choices;
  /** One per prompt. */
  readonly handles: RequestHandle[];
  readonly stopListening: () => void;
  /** The engine has begun with it. */
  begun: boolean;
  /** `flush` will be called after this step. */
  flushQueued: boolean;
  /** Something has been delivered to the listener. */
  sent: boolean;
  /** Of finished choices. */
  readonly finishReasons: FinishReason[];
}

/** What ends a choice before its length. */
type Ending = Pick<ChoicesParts, "stops" | "eosIds">;

/** One request: it is admitted, runs as one engine request per prompt, and ends exactly once. */
export class Generation {
  readonly #request: ValidGenerateRequest;
  readonly #listener: GenerationListener;
  readonly #parts: GenerationParts;
  readonly #onEnd: (self: Generation) => void;
  readonly #startedAt = performance.now();
  readonly #meter: RequestMeter;
  #state: State = { name: "admitting", refusal: null };
  /** Why it was removed, if it was. */
  #removal: PrefixdError | null = null;
  #markEnded: () => void = () => {};
  /** Resolves when it has ended. */
  readonly ended = new Promise<void>((resolve) => (this.#markEnded = resolve));

  constructor(
    request: ValidGenerateRequest,
    listener: GenerationListener,
    parts: GenerationParts,
    onEnd: (self: Generation) => void,
  ) {
    this.#request = request;
    this.#listener = listener;
    this.#parts = parts;
    this.#onEnd = onEnd;
    const rows = request.beams?.numBeams ?? choicesPerPrompt(request);
    const { user, prefix, prompts } = request;
    const newTokens = prompts.reduce((sum, { length }) => sum + mostNewTokens(request, length, parts.positions), 0);
    this.#meter = new RequestMeter({ user, prefix, prompts, mostNewTokens: rows * newTokens }, parts);
  }

  uses(key: PrefixKey): boolean {
    return this.#request.prefix?.user === key.user && this.#request.prefix.name === key.name;
  }

  /** Who sent it, and with which key. */
  get user(): string {
    return this.#request.user;
  }

  get keyId(): string | null {
    return this.#request.keyId ?? null;
  }

  /** Throws `token_rate_exceeded`. */
  admit(): Promise<void> {
    return this.#meter.admit();
  }

  /** The users whose removal ends it: its sender, and the owner of its prefix. */
  get users(): readonly string[] {
    const { user, prefix } = this.#request;
    return prefix === null || prefix.user === user ? [user] : [user, prefix.user];
  }

  /** Whether the engine has begun with it. */
  get begun(): boolean {
    return this.#state.name === "running" && this.#state.begun;
  }

  /**
   * Throws `context_exceeded`, what the engine's `submit` throws, or why it must not run any more. The caller then
   * calls `end`.
   */
  submit(prefix: ResolvedPrefix | null, constraint: PreparedConstraint | null, signal: AbortSignal): void {
    if (this.#state.name !== "admitting") throw new Error("submitted twice");
    if (this.#state.refusal !== null) throw this.#state.refusal;
    const { tokenizer, eosIds, engine } = this.#parts;
    const ending: Ending = {
      stops: new Stops(this.#request.stop, this.#request.stopTokenIds),
      eosIds: new Set(this.#request.ignoreEos ? [] : eosIds),
    };
    const requests = this.#engineRequests(prefix, constraint, ending);
    const onAbort = (): void => void this.end(abortOutcome(signal));
    const running: Running = {
      name: "running",
      prefix,
      choices: new Choices(this.#request, { tokenizer, ...ending, dropsSpace: constraint?.dropsSpace ?? false }),
      handles: [],
      stopListening: () => signal.removeEventListener("abort", onAbort),
      begun: false,
      flushQueued: false,
      sent: false,
      finishReasons: [],
    };
    this.#meter.submitted();
    try {
      for (const [p, request] of requests.entries())
        running.handles.push(engine.submit(request, this.#engineListener(running, p)));
    } catch (error) {
      // Nothing has run yet: the engine does not step before the next turn of the event loop.
      for (const handle of running.handles) handle.cancel("cancelled");
      throw error;
    }
    this.#state = running;
    signal.addEventListener("abort", onAbort);
  }

  /**
   * Ends it because its prefix, user or key is gone, and resolves when it has ended. If it has not been submitted yet, it
   * will not be. `error` is the answer if nothing was sent, `refusal` if it has not been submitted.
   */
  remove(error: PrefixdError, refusal: PrefixdError): Promise<void> {
    const state = this.#state;
    this.#removal ??= error;
    if (state.name === "admitting") {
      state.refusal ??= refusal;
      return Promise.resolve();
    }
    if (state.name === "running") for (const handle of state.handles) handle.cancel("removed");
    return this.ended;
  }

  fail(error: PrefixdError): void {
    const state = this.#state;
    if (state.name === "admitting") {
      // `submit` throws it.
      state.refusal ??= error;
      return;
    }
    if (state.name === "running" && state.choices.changed && this.#mayEmit()) this.flush();
    if (this.end(error.code)) this.#listener.onError(error);
  }

  /**
   * The only way to end: releases what it holds (rows, reserved tokens, listeners) and counts it. Tells the client
   * nothing. Returns false if it had ended before.
   */
  end(outcome: string): boolean {
    const state = this.#state;
    if (state.name === "ended") return false;
    this.#state = { name: "ended" };
    if (state.name === "running") {
      state.stopListening();
      // Otherwise the engine has nothing of it any more, and looking for it costs a look at all that waits.
      if (state.choices.open > 0) for (const handle of state.handles) handle.cancel("cancelled");
    }
    this.#onEnd(this);
    this.#markEnded();
    if (state.name === "running") {
      this.#meter.ended(state.prefix?.kv.length ?? 0);
      const usage = this.#usage(state);
      this.#parts.metrics.request(outcome, (performance.now() - this.#startedAt) / 1000, usage);
      const { finishReasons } = state;
      this.#request.onEnd?.({ outcome, usage, phases: this.#meter.phases(), finishReasons });
    } else {
      this.#meter.refuse();
      this.#parts.metrics.request(outcome);
    }
    return true;
  }

  /** Delivers the results of the step. */
  flush(): void {
    const running = this.#state;
    if (running.name !== "running") return;
    running.flushQueued = false;
    if (!running.choices.changed) return;
    if (!this.#mayEmit()) return this.fail(lostTouch());
    const deltas = running.choices.take();
    const removed = deltas.some((delta) => delta.finishReason === "removed");
    if (removed && !running.sent) return this.fail(this.#removal ?? removedError());
    running.sent = true;
    if (running.choices.open > 0) return this.#listener.onStep(deltas, null);
    this.end(removed ? "removed" : "ok");
    const key = this.#request.prefix;
    this.#listener.onStep(deltas, {
      prefix: running.prefix && key ? { key, digest: running.prefix.digest } : null,
      usage: this.#usage(running),
      timings: this.#meter.timings(),
      ...(this.#removal === null ? {} : { removal: this.#removal }),
    });
  }

  /** One per prompt; all lengths are checked before the first is submitted. Throws `context_exceeded`. */
  #engineRequests(
    prefix: ResolvedPrefix | null,
    constraint: PreparedConstraint | null,
    { stops, eosIds }: Ending,
  ): EngineRequest[] {
    const { id, user, prefix: key, prompts, beams, sampling, seed, logprobs, echo } = this.#request;
    const { tokenizer, positions } = this.#parts;
    const beamStop =
      beams !== null && !stops.none ? new StopProgress(stops, (token) => seenByStops(tokenizer, token)) : null;
    return prompts.map((promptIds, p) => {
      const lengths = lengthsOf(this.#request, sampling.minNewTokens, {
        prefix: prefix?.kv.length ?? 0,
        prompt: promptIds.length,
        positions,
        which: prompts.length > 1 ? ` (at index ${p})` : "",
      });
      return {
        id: `${id}-${p}`,
        tenant: user,
        promptIds,
        prefix: prefix?.kv ?? null,
        prefixId: key && `${key.user}/${key.name}`,
        n: choicesPerPrompt(this.#request),
        maxNewTokens: lengths.maxNewTokens,
        sampling: samplingFor(sampling, lengths),
        constraint: constraint?.start() ?? null,
        preparation: p === 0 ? (constraint?.preparation ?? 0) : 0,
        beams,
        beamStop,
        seed,
        scorePrompt: echo && logprobs !== null,
        topLogprobs: logprobs ?? 0,
        eosIds: [...eosIds],
      };
    });
  }

  /** Ignores what an engine request reports after the generation has ended. */
  #engineListener(running: Running, prompt: number): RequestListener {
    const { echo, logprobs } = this.#request;
    const firstChoice = prompt * choicesPerPrompt(this.#request);
    return {
      onStart: () => {
        if (this.#state !== running) return;
        running.begun = true;
        this.#meter.started(prompt);
        if (echo && logprobs === null) this.#change(running, (choices) => choices.echo(prompt, []));
      },
      onPrompt: (scores) => this.#change(running, (choices) => choices.echo(prompt, scores)),
      onBeamStep: (tokens) => {
        if (this.#state === running) this.#meter.generated(tokens);
      },
      onToken: (event) => this.#onToken(running, prompt, firstChoice + event.choice, event),
      onFinish: (choice, reason, score) => {
        running.finishReasons.push(reason);
        this.#change(running, (choices) => choices.finish(firstChoice + choice, reason, score ?? null));
      },
      onError: (error) => this.fail(error),
    };
  }

  #onToken(running: Running, prompt: number, index: number, event: TokenEvent): "continue" | "stop" {
    if (this.#state !== running) return "stop";
    this.#meter.started(prompt);
    if (this.#request.beams === null) this.#meter.generated(1);
    try {
      this.#flushSoon(running);
      return running.choices.add(index, event);
    } catch (error) {
      this.#failText(error);
      return "stop";
    }
  }

  #change(running: Running, change: (choices: Choices) => void): void {
    if (this.#state !== running) return;
    try {
      this.#flushSoon(running);
      change(running.choices);
    } catch (error) {
      this.#failText(error);
    }
  }

  #failText(cause: unknown): void {
    this.fail(new PrefixdError("internal", "The text could not be made.", { cause }));
  }

  /** A step's results for all choices are delivered together, right after it. */
  #flushSoon(running: Running): void {
    if (running.flushQueued) return;
    running.flushQueued = true;
    flushLater(this);
  }

  #mayEmit(): boolean {
    return this.#parts.mayEmit?.() ?? true;
  }

  #usage({ prefix }: Running): RequestTokens {
    const prompt = this.#request.prompts.reduce((sum, ids) => sum + ids.length, 0);
    return { prefix: prefix?.kv.length ?? 0, prompt, completion: this.#meter.completion };
  }
}

/**
 * Generations with results in this step. One microtask flushes them all: a microtask each would cost more than the
 * flush itself.
 */
let flushing: Generation[] = [];

function flushLater(generation: Generation): void {
  if (flushing.push(generation) === 1) queueMicrotask(flushAll);
}

function flushAll(): void {
  const generations = flushing;
  flushing = [];
  for (const generation of generations) generation.flush();
}

export const removedError = (
  what: "prefix" | "user" | "key" | "prefix, user or key" = "prefix, user or key",
): PrefixdError => new PrefixdError("removed", `The ${what} was removed before the answer was complete.`);
export const abortOutcome = (signal: AbortSignal): string => (signal.reason === "too_slow" ? "too_slow" : "cancelled");
