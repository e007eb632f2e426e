/** Records what the engine reports about one request, and checks the listener's contract. */
import { setImmediate as turn } from "node:timers/promises";
import type { Engine, EngineStats } from "../../src/engine/engine.ts";
import type {
  EngineRequest,
  FinishReason,
  PromptScore,
  RequestHandle,
  RequestListener,
  TokenEvent,
} from "../../src/engine/request.ts";
import type { PrefixdError } from "../../src/errors.ts";
import type { EngineObserver, SequenceOutcome, StepPhase } from "../../src/observability/engine-observer.ts";

export interface Hooks {
  onStart?(handle: RequestHandle): void;
  onPrompt?(handle: RequestHandle): void;
  onBeamStep?(handle: RequestHandle): void;
  onToken?(event: TokenEvent, handle: RequestHandle): "continue" | "stop" | undefined;
  onFinish?(choice: number, reason: FinishReason, handle: RequestHandle): void;
  onError?(error: PrefixdError): void;
}

export class Recording implements RequestListener {
  readonly ids: number[][];
  readonly reasons: (FinishReason | null)[];
  readonly tokens: TokenEvent[] = [];
  readonly scores: (number | undefined)[];
  /** Tokens reported by beam search steps. */
  searched = 0;
  prompt: readonly PromptScore[] | null = null;
  /** Calls that the contract forbids; must stay empty. */
  readonly violations: string[] = [];
  /** Resolves at the request's end; never for a cancelled request. */
  readonly ended: Promise<void>;
  error: PrefixdError | null = null;
  started = false;
  handle!: RequestHandle;
  readonly #hooks: Hooks;
  #cancelled = false;
  #over = false;
  #resolve!: () => void;

  constructor(engine: Engine, request: EngineRequest, hooks: Hooks = {}) {
    this.ids = Array.from({ length: request.n }, () => []);
    this.reasons = this.ids.map(() => null);
    this.scores = this.ids.map(() => undefined);
    this.#hooks = hooks;
    this.ended = new Promise((resolve) => (this.#resolve = resolve));
    const handle = engine.submit(request, this);
    this.handle = {
      cancel: (reason) => {
        if (reason === "cancelled") this.#cancelled = true;
        handle.cancel(reason);
      },
    };
  }

  onStart(): void {
    this.#check("onStart");
    if (this.started) this.violations.push("onStart twice");
    this.started = true;
    this.#hooks.onStart?.(this.handle);
  }

  onPrompt(tokens: readonly PromptScore[]): void {
    this.#check("onPrompt");
    if (!this.started || this.prompt !== null || this.tokens.length > 0) this.violations.push("onPrompt out of turn");
    this.prompt = tokens;
    this.#hooks.onPrompt?.(this.handle);
  }

  onBeamStep(tokens: number): void {
    this.#check("onBeamStep");
    if (this.tokens.length > 0) this.violations.push("onBeamStep after results");
    this.searched += tokens;
    this.#hooks.onBeamStep?.(this.handle);
  }

  onToken(event: TokenEvent): "continue" | "stop" {
    this.#check("onToken");
    if (!this.started) this.violations.push("onToken before onStart");
    if (this.reasons[event.choice] !== null) this.violations.push(`onToken of choice ${event.choice}, which had ended`);
    this.ids[event.choice]!.push(event.id);
    this.tokens.push(event);
    return this.#hooks.onToken?.(event, this.handle) ?? "continue";
  }

  onFinish(choice: number, reason: FinishReason, score?: number): void {
    this.#check("onFinish");
    if (this.reasons[choice] !== null) this.violations.push(`onFinish of choice ${choice} twice`);
    this.reasons[choice] = reason;
    this.scores[choice] = score;
    if (!this.reasons.includes(null)) this.#end();
    this.#hooks.onFinish?.(choice, reason, this.handle);
  }

  onError(error: PrefixdError): void {
    this.#check("onError");
    this.error = error;
    this.#end();
    this.#hooks.onError?.(error);
  }

  #end(): void {
    this.#over = true;
    this.#resolve();
  }

  #check(call: string): void {
    if (this.#over) this.violations.push(`${call} after the end`);
    if (this.#cancelled) this.violations.push(`${call} after cancel`);
  }
}

/** Counts what the engine reports. */
export class CountingObserver implements EngineObserver {
  readonly outcomes: Partial<Record<SequenceOutcome, number>> = {};
  readonly steps: { phase: StepPhase; rows: number; tokens: number }[] = [];
  readonly counts = { queued: 0, firstToken: 0, interToken: 0 };
  readonly seconds: number[] = [];

  step(phase: StepPhase, rows: number, tokens: number, seconds: number): void {
    this.steps.push({ phase, rows, tokens });
    this.seconds.push(seconds);
  }
  queued(seconds: number): void {
    this.counts.queued++;
    this.seconds.push(seconds);
  }
  firstToken(seconds: number): void {
    this.counts.firstToken++;
    this.seconds.push(seconds);
  }
  interToken(seconds: number): void {
    this.counts.interToken++;
    this.seconds.push(seconds);
  }
  finished(outcome: SequenceOutcome): void {
    this.outcomes[outcome] = (this.outcomes[outcome] ?? 0) + 1;
  }

  /** Sequences that have ended, for any reason. */
  get ended(): number {
    return Object.values(this.outcomes).reduce((sum, count) => sum + count, 0);
  }
}

/** Waits until nothing is queued and no row is held; throws after `turns` turns of the event loop. */
export async function idle(engine: Engine, turns = 5000): Promise<EngineStats> {
  for (let left = turns; left > 0; left--) {
    const stats = engine.stats();
    if (stats.queued + stats.running === 0) return stats;
    await turn();
  }
  throw new Error(`the engine is still busy: ${JSON.stringify(engine.stats())}`);
}
