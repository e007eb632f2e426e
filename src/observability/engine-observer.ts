/** `fold`: a soft or hard prompt is compiled to a prefix. */
export type StepPhase = "prefill" | "decode" | "fold";
/** How one sequence (one choice of one prompt) ended. */
export type SequenceOutcome = "length" | "eos" | "stop" | "removed" | "cancelled" | "error";

/** Receives what the engine reports. Called within its step: must neither block nor throw. Times are in seconds. */
export interface EngineObserver {
  /** One run of the model: rows in the batch, tokens fed, time of the run. */
  step(phase: StepPhase, rows: number, tokens: number, seconds: number): void;
  /** A request left the queue after waiting this long. */
  queued(seconds: number): void;
  /** Time from a request's submission to its first token. */
  firstToken(seconds: number): void;
  /** Time between two tokens of one sequence. */
  interToken(seconds: number): void;
  /** One step's work on masks of constraints. */
  constraintWork?(seconds: number): void;
  /** One sequence ended. */
  finished(outcome: SequenceOutcome): void;
}

/** What gauges read from the engine when they are scraped. */
export interface EngineStats {
  /** Requests waiting. */
  readonly queued: number;
  /** Soft and hard prompts being folded or waiting for it. */
  readonly folds: number;
  /** Sequences that hold a slot. */
  readonly running: number;
  /** Requests that hold slots, however many each: one per prompt. */
  readonly runningRequests: number;
  readonly slots: number;
  readonly maxQueue: number;
}

/** One row of the KV cache. */
export interface RowState {
  readonly tenant: string;
  /** As its request names it; null: the bare base model. */
  readonly prefixId: string | null;
  readonly phase: "prefill" | "decode";
  /** Of the prompt, fed so far (prefill); generated so far (decode). */
  readonly tokens: number;
  /** The prompt's (prefill); the most that may be generated (decode). */
  readonly of: number;
  /** Milliseconds since its request was submitted. */
  readonly ageMs: number;
}

/** A tenant with requests in the engine. */
export interface TenantState {
  readonly tenant: string;
  readonly weight: number;
  readonly rows: number;
  /** Requests, folds not included. */
  readonly waiting: number;
  /** How long the oldest of these has waited, in milliseconds; null if none waits. */
  readonly oldestMs: number | null;
}

/** What the engine does at one moment. */
export interface EngineSnapshot {
  readonly rows: readonly RowState[];
  readonly tenants: readonly TenantState[];
}

/** Prefixes by the ids that requests name, `user/name`, each once and in no order. */
export interface PrefixesInUse {
  /** Of requests that hold slots. */
  readonly running: readonly string[];
  /** Of requests that wait. */
  readonly waiting: readonly string[];
}

/** Statistics of a cache, such as that of prefixes in the host. `hits` and `misses` only grow. */
export interface PrefixCacheStats {
  readonly hits: number;
  readonly misses: number;
  readonly bytes: number;
  readonly entries: number;
}
