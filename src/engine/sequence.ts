import { PrefixdError } from "../errors.ts";
import type { EngineObserver, SequenceOutcome } from "../observability/engine-observer.ts";
import type { FinishReason, EngineRequest, RequestListener } from "./request.ts";
import { Sampler } from "./sampler.ts";
import type { Schedulable } from "./scheduler.ts";

/** A request inside the engine: queued, then prefilled once, then decoded as one sequence per choice. */
export class RunningRequest implements Schedulable {
  readonly request: EngineRequest;
  readonly listener: RequestListener;
  readonly observer: EngineObserver;
  readonly sequences: readonly Sequence[];
  readonly submittedAt: number;
  fed = 0;
  passedOver = 0;
  /** Row that is being prefilled. */
  row = -1;
  /** Set once nothing more may be told to the listener. */
  ended = false;

  constructor(request: EngineRequest, listener: RequestListener, observer: EngineObserver, now: number) {
    this.request = request;
    this.listener = listener;
    this.observer = observer;
    this.submittedAt = now;
    this.sequences = Array.from({ length: request.n }, (_, choice) => new Sequence(this, choice));
  }

  get tenant(): string {
    return this.request.tenant;
  }
  get n(): number {
    return this.request.n;
  }
  get promptLength(): number {
    return this.request.promptIds.length;
  }
  /** Virtual tokens before the prompt: the prompt's first position. */
  get prefixLength(): number {
    return this.request.prefix?.length ?? 0;
  }

  /** Ends every choice that still runs. */
  finishAll(reason: FinishReason): void {
    for (const sequence of this.sequences) sequence.finish(reason);
  }

  fail(error: PrefixdError): void {
    if (this.ended) return;
    this.#end("error");
    try {
      this.listener.onError(error);
    } catch {
      // Its last call: there is nobody left to tell, and the other requests go on.
    }
  }

  /** Ends without a word: nobody listens any more. */
  abandon(): void {
    if (!this.ended) this.#end("cancelled");
  }

  /** Calls the listener. One that throws, against its contract, ends its own request and no other: the answer is undefined. */
  tell<T>(call: (listener: RequestListener) => T): T | undefined {
    try {
      return call(this.listener);
    } catch (error) {
      this.fail(error instanceof PrefixdError ? error : new PrefixdError("internal", "The results could not be handed on.", { cause: error }));
      return undefined;
    }
  }

  endIfDone(): void {
    if (this.sequences.every((sequence) => sequence.done)) this.ended = true;
  }

  #end(outcome: SequenceOutcome): void {
    this.ended = true;
    for (const sequence of this.sequences) {
      if (sequence.done) continue;
      sequence.done = true;
      this.observer.finished(outcome);
    }
  }
}

/** One choice of a request. While it decodes it owns one row of the KV cache. */
export class Sequence {
  readonly owner: RunningRequest;
  readonly choice: number;
  readonly sampler: Sampler;
  /** Tokens in its row, the prefix's virtual ones included: the position of the next token fed. */
  length = 0;
  /** The newest token, not yet in the cache. */
  lastId = -1;
  generated = 0;
  done = false;
  /** When the newest token came, in ms. */
  lastTokenAt = 0;

  constructor(owner: RunningRequest, choice: number) {
    const { sampling, seed, promptIds, eosIds } = owner.request;
    this.owner = owner;
    this.choice = choice;
    this.sampler = new Sampler(sampling, seed, choice, promptIds, eosIds);
  }

  finish(reason: FinishReason): void {
    if (this.done) return;
    this.done = true;
    this.owner.observer.finished(reason);
    this.owner.endIfDone();
    this.owner.tell((listener) => listener.onFinish(this.choice, reason));
  }
}
