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
  readonly slots: number;
  readonly maxQueue: number;
}

/** Statistics of a cache, such as that of prefixes in the host. `hits` and `misses` only grow. */
export interface PrefixCacheStats {
  readonly hits: number;
  readonly misses: number;
  readonly bytes: number;
  readonly entries: number;
}
