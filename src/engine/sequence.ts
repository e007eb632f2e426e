import { PrefixdError } from "../errors.ts";
import type { EngineObserver, SequenceOutcome } from "../observability/engine-observer.ts";
import { BeamSearch } from "./beams/search.ts";
import type { Answers, StepOutput } from "./runner.ts";
import { blamed } from "./prefix-trial.ts";
import { RecentMedian } from "./scheduling/recent-median.ts";
import {
  rowsOf,
  type EngineRequest,
  type FinishReason,
  type PromptScore,
  type RequestListener,
  type TokenEvent,
} from "./request.ts";
import { Sampler } from "./sampling/sampler.ts";
import type { Chooser } from "./scheduling/choosing-turns.ts";
import type { Schedulable } from "./scheduling/plan.ts";

/** A request inside the engine: queued, prefilled once, then decoded as one sequence per choice or beam. */
export class Job implements Schedulable, Chooser {
  readonly request: EngineRequest;
  readonly listener: RequestListener;
  readonly observer: EngineObserver;
  readonly submittedAt: number;
  /** In a beam search, the running ones, in beam order. */
  sequences: readonly Sequence[];
  readonly search: BeamSearch | null;
  /** With `scorePrompt`: the scores so far. */
  readonly promptScores: PromptScore[] = [];
  /** Milliseconds that choosing its last tokens took, per token. */
  readonly choosing = new RecentMedian(8);
  fed = 0;
  passedOver = 0;
  leftOut = 0;
  waited = 0;
  /** The row that its prompt is fed to. */
  row = -1;
  /** Set once the listener must not be called any more. */
  ended = false;
  /** Choices that have not finished. */
  #open: number;

  constructor(request: EngineRequest, listener: RequestListener, observer: EngineObserver, now: number) {
    this.request = request;
    this.listener = listener;
    this.observer = observer;
    this.submittedAt = now;
    this.#open = request.n;
    this.search = request.beams === null ? null : new BeamSearch(request, request.beams);
    this.sequences = Array.from({ length: this.rows }, (_, index) => new Sequence(this, index));
  }

  get tenant(): string {
    return this.request.tenant;
  }
  get rows(): number {
    return rowsOf(this.request);
  }
  get promptLength(): number {
    return this.request.promptIds.length;
  }
  get job(): Job {
    return this;
  }
  get ownSequences(): readonly Sequence[] {
    return this.sequences;
  }
  /** Of a whole step of a beam search. */
  get choosingTime(): number {
    return (this.choosing.value ?? 0) * this.rows;
  }
  get answers(): Answers {
    return this.request.scorePrompt ? "all" : "last";
  }
  /** Virtual tokens before the prompt: the prompt's first position. */
  get prefixLength(): number {
    return this.request.prefix?.length ?? 0;
  }

  /** Of its beams' constraint. */
  work(units: number): number {
    return this.search?.work(units) ?? 0;
  }

  /** Ends every choice that still runs. */
  finishAll(reason: FinishReason): void {
    if (this.search === null) for (const sequence of this.sequences) sequence.finish(reason);
    else {
      this.freeRows();
      // A search's choices finish in order.
      while (!this.ended) this.finishChoice(this.request.n - this.#open, reason);
    }
  }

  /** To be called once for each choice. */
  finishChoice(choice: number, reason: FinishReason, score?: number): void {
    this.observer.finished(reason);
    if (--this.#open === 0) this.ended = true;
    this.tell((listener) =>
      score === undefined ? listener.onFinish(choice, reason) : listener.onFinish(choice, reason, score),
    );
  }

  fail(error: PrefixdError): void {
    if (this.ended) return;
    this.#end("error");
    try {
      this.listener.onError(blamed(error, this.request.prefix));
    } catch {
      // This was the listener's last call: there is nobody left to tell, and other requests go on.
    }
  }

  /** Ends silently: nobody listens any more. */
  abandon(): void {
    if (!this.ended) this.#end("cancelled");
  }

  /**
   * Calls the listener. One that breaks its contract and throws ends its own request only; the result is then
   * undefined.
   */
  tell<T>(call: (listener: RequestListener) => T): T | undefined {
    try {
      return call(this.listener);
    } catch (error) {
      this.fail(
        error instanceof PrefixdError
          ? error
          : new PrefixdError("internal", "The results could not be handed on.", { cause: error }),
      );
      return undefined;
    }
  }

  freeRows(): void {
    for (const sequence of this.sequences) sequence.done = true;
  }

  #end(outcome: SequenceOutcome): void {
    this.ended = true;
    this.freeRows();
    for (; this.#open > 0; this.#open--) this.observer.finished(outcome);
  }
}

/** One choice of a request, or one of its beams. While it decodes it owns one row of the KV cache. */
export class Sequence implements Chooser {
  readonly owner: Job;
  /** Index of the choice; for a beam just a number. */
  readonly choice: number;
  /**
   * Created with the first token: a request may queue with hundreds of rows, and each needs the memory of all
   * processors.
   */
  #sampler: Sampler | null = null;
  /** Tokens in its row, including the prefix's virtual ones: the position of the next token fed. */
  length = 0;
  /** The newest token, not yet in the cache. */
  lastId = -1;
  generated = 0;
  readonly rows = 1;
  leftOut = 0;
  waited = 0;
  /** Its row is free. */
  done = false;
  /** When the newest token came, in ms. */
  #lastTokenAt = 0;

  constructor(owner: Job, choice: number) {
    this.owner = owner;
    this.choice = choice;
  }

  get tenant(): string {
    return this.owner.tenant;
  }
  get choosingTime(): number {
    return this.owner.choosing.value ?? 0;
  }
  get job(): Job {
    return this.owner;
  }
  get ownSequences(): readonly Sequence[] {
    return [this];
  }
  /** Beams are chosen by their search. */
  get chooser(): Chooser {
    return this.owner.search === null ? this : this.owner;
  }

  /**
   * Chooses the next token from row `row` of a step that ended at `now` (ms), tells the listener, and ends the choice
   * if this was the last.
   * @throws MaskPending where the constraint needs `work` first; PrefixdError model_failed
   */
  advance(output: StepOutput, row: number, now: number): void {
    const { owner } = this;
    const { request, observer } = owner;
    const { sampling, seed, promptIds, eosIds, beams, constraint } = request;
    if (beams !== null) throw new Error("a beam does not choose its own tokens");
    this.#sampler ??= new Sampler(sampling, seed, this.choice, promptIds, eosIds, constraint ?? null);
    const { id, logprob, top } = this.#sampler.next(output, row, request.topLogprobs);
    const event: TokenEvent = { choice: this.choice, id, logprob, top };
    this.lastId = id;
    this.generated++;
    const verdict = owner.tell((listener) => listener.onToken(event));
    if (this.#lastTokenAt > 0) observer.interToken((now - this.#lastTokenAt) / 1000);
    this.#lastTokenAt = now;
    if (eosIds.includes(this.lastId)) this.finish("eos");
    else if (verdict === "stop" || this.#sampler.final) this.finish("stop");
    else if (this.generated >= request.maxNewTokens) this.finish("length");
  }

  work(units: number): number {
    return this.#sampler?.work(units) ?? 0;
  }

  finish(reason: FinishReason): void {
    if (this.done) return;
    this.done = true;
    this.owner.finishChoice(this.choice, reason);
  }
}
