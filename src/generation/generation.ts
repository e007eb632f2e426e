import { lostTouch, PrefixdError } from "../errors.ts";
import type { FinishReason, PromptScore, RequestHandle, RequestListener, TokenEvent } from "../engine/request.ts";
import { lengthsOf, mostNewTokens, samplingFor } from "./lengths.ts";
import { RequestMeter } from "./meter.ts";
import type { ChoiceDelta, GenerationListener, GenerationParts, ValidGenerateRequest } from "./types.ts";
import type { RequestTokens } from "../observability/metrics.ts";
import type { ResolvedPrefix } from "../prefixes/registry-types.ts";
import type { PrefixKey } from "../prefixes/store.ts";
import { seenByStops, StopProgress, Stops } from "../text/stop-strings.ts";
import { TextStream } from "../text/text-stream.ts";

export type * from "./types.ts";

/** One taken-in request: its engine requests (one per prompt), the text of its choices, and what has not been handed over yet. */
export class Generation {
  readonly #request: ValidGenerateRequest;
  readonly #listener: GenerationListener;
  readonly #parts: GenerationParts;
  readonly #onEnd: (self: Generation) => void;
  readonly #startedAt = performance.now();
  readonly #meter: RequestMeter;
  /** Choices of each prompt, those included that will not be in the answer. */
  readonly #width: number;
  readonly #texts: TextStream[];
  readonly #stops: Stops;
  /** With `bestOf`: of each choice the sum of its tokens' log probabilities, and their number. */
  readonly #likelihoods: { sum: number; tokens: number }[];
  readonly #handles: RequestHandle[] = [];
  readonly #eos: ReadonlySet<number>;
  /** Of this step, by index; a choice without news has none. */
  #deltas: (ChoiceDelta | undefined)[] = [];
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
    this.#width = request.bestOf ?? request.n;
    const rows = request.beams?.numBeams ?? this.#width;
    const { user, prefix, prompts } = request;
    this.#meter = new RequestMeter(
      {
        user,
        prefix,
        prompts,
        mostNewTokens:
          rows * prompts.reduce((sum, { length }) => sum + mostNewTokens(request, length, parts.positions), 0),
      },
      parts,
    );
    this.#open = request.prompts.length * this.#width;
    this.#stops = new Stops(request.stop, request.stopTokenIds);
    this.#texts = Array.from({ length: this.#open }, () => new TextStream(parts.tokenizer, this.#stops));
    this.#likelihoods = this.#texts.map(() => ({ sum: 0, tokens: 0 }));
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
    const lengths = this.#lengths(prefix?.kv.length ?? 0);
    const { id, user, beams, sampling, seed, logprobs, echo } = this.#request;
    const { tokenizer } = this.#parts;
    const beamStop =
      beams !== null && !this.#stops.none
        ? new StopProgress(this.#stops, (token) => seenByStops(tokenizer, token))
        : null;
    const common = {
      tenant: user,
      prefix: prefix?.kv ?? null,
      n: this.#width,
      beams,
      beamStop,
      seed,
      scorePrompt: echo && logprobs !== null,
      topLogprobs: logprobs ?? 0,
      eosIds: [...this.#eos],
    };
    this.#meter.submitted();
    try {
      for (const [p, promptIds] of this.#request.prompts.entries()) {
        const { maxNewTokens } = lengths[p]!;
        const request = {
          id: `${id}-${p}`,
          promptIds,
          maxNewTokens,
          sampling: samplingFor(sampling, lengths[p]!),
          ...common,
        };
        this.#handles.push(this.#parts.engine.submit(request, this.#engineListener(p)));
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
    if (this.#deltas.length > 0 && this.#mayEmit()) this.flush();
    if (this.#finish(error.code, true)) this.#listener.onError(error);
  }

  /** Of each prompt; all of them, before the first one is submitted. */
  #lengths(prefix: number): ReturnType<typeof lengthsOf>[] {
    const { prompts, sampling } = this.#request;
    const { positions } = this.#parts;
    return prompts.map(({ length }, p) =>
      lengthsOf(this.#request, sampling.minNewTokens, {
        prefix,
        prompt: length,
        positions,
        which: prompts.length > 1 ? ` of prompts[${p}]` : "",
      }),
    );
  }

  #engineListener(prompt: number): RequestListener {
    const firstChoice = prompt * this.#width;
    return {
      onStart: () => {
        this.#started = true;
        this.#meter.started(prompt);
        if (this.#request.echo && this.#request.logprobs === null) this.#echo(prompt, null);
      },
      onPrompt: (tokens) => this.#echo(prompt, tokens),
      onBeamStep: (tokens) => this.#count(tokens),
      onToken: (event) => this.#onToken(prompt, firstChoice + event.choice, event),
      onFinish: (choice, reason, score) => this.#onFinish(firstChoice + choice, reason, score ?? null),
      onError: (error) => this.fail(error),
    };
  }

  #onToken(prompt: number, index: number, event: TokenEvent): "continue" | "stop" {
    if (this.#over) return "stop";
    this.#meter.started(prompt);
    if (this.#request.beams === null) this.#count(1);
    const likelihood = this.#likelihoods[index] as { sum: number; tokens: number };
    likelihood.sum += event.logprob;
    likelihood.tokens++;
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

  #count(tokens: number): void {
    if (this.#over) return;
    this.#completionTokens += tokens;
    this.#meter.generated(tokens);
  }

  /** Every choice of a prompt begins with it. Special tokens have no text there either. */
  #echo(prompt: number, tokens: readonly PromptScore[] | null): void {
    if (this.#over) return;
    try {
      const ids = this.#request.prompts[prompt] as Int32Array;
      const text = this.#parts.tokenizer.decode(ids);
      for (let index = prompt * this.#width; index < (prompt + 1) * this.#width; index++) {
        const delta = this.#delta(index);
        delta.text += text;
        delta.tokenIds.push(...ids);
        for (const { logprob, top } of tokens ?? []) {
          delta.logprobs.token.push(logprob);
          delta.logprobs.top.push(top);
        }
      }
    } catch (error) {
      this.fail(new PrefixdError("internal", "The text could not be made.", { cause: error }));
    }
  }

  #onFinish(index: number, reason: FinishReason, score: number | null): void {
    if (this.#over) return;
    try {
      const delta = this.#delta(index);
      if (reason !== "stop") delta.text += (this.#texts[index] as TextStream).end();
      delta.finishReason = reason;
      const { sum, tokens } = this.#likelihoods[index] as { sum: number; tokens: number };
      delta.score = this.#request.bestOf === null ? score : sum / tokens;
      this.#open--;
    } catch (error) {
      this.fail(new PrefixdError("internal", "The text could not be made.", { cause: error }));
    }
  }

  /** The delta of a choice in this step. Whatever one step brings for all choices is handed over together, right after it. */
  #delta(index: number): ChoiceDelta {
    if (!this.#flushQueued) {
      this.#flushQueued = true;
      flushLater(this);
    }
    return (this.#deltas[index] ??= emptyDelta(index, this.#request.logprobs === null ? NO_LOGPROBS : undefined));
  }

  /** Hands over what the step brought. */
  flush(): void {
    this.#flushQueued = false;
    if (this.#over || this.#deltas.length === 0) return;
    if (!this.#mayEmit()) return this.fail(lostTouch());
    const deltas = this.#deltas.filter((delta) => delta !== undefined);
    this.#deltas = [];
    const removed = deltas.some((delta) => delta.finishReason === "removed");
    if (removed && !this.#sent) return this.fail(removedError());
    this.#sent = true;
    if (this.#open > 0) return this.#listener.onStep(deltas, null);
    this.#finish(removed ? "removed" : "ok", false);
    const key = this.#request.prefix;
    this.#listener.onStep(deltas, {
      prefix: this.#prefix && key ? { key, digest: this.#prefix.digest } : null,
      usage: this.#usage(),
    });
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

/** Those that a step brings something for. One microtask hands over for all: one each would cost more than what it does. */
let flushing: Generation[] = [];

function flushLater(generation: Generation): void {
  if (flushing.push(generation) === 1) queueMicrotask(flushAll);
}

function flushAll(): void {
  const generations = flushing;
  flushing = [];
  for (const generation of generations) generation.flush();
}

/** Of requests that did not ask for any; shared, so nobody may add to them. */
const NO_LOGPROBS: ChoiceDelta["logprobs"] = { token: [], top: [] };
Object.values(NO_LOGPROBS).forEach(Object.freeze);

export const emptyDelta = (index: number, logprobs: ChoiceDelta["logprobs"] = { token: [], top: [] }): ChoiceDelta => ({
  index,
  text: "",
  tokenIds: [],
  logprobs,
  finishReason: null,
  score: null,
});

export const removedError = (): PrefixdError =>
  new PrefixdError("removed", "The prefix was removed before the answer was complete.");
export const abortOutcome = (signal: AbortSignal): string => (signal.reason === "too_slow" ? "too_slow" : "cancelled");
