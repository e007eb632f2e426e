import type { EngineObserver } from "../observability/engine-observer.ts";
import type { Rows } from "./decode-batch.ts";
import type { CacheWiper } from "./kv-wiper.ts";
import type { ModelRunner } from "./runner.ts";
import type { ServiceCounters } from "./scheduling/counters.ts";
import type { PrefillBudget } from "./scheduling/prefill-budget.ts";

/** What the stages of a step share: prefiller.ts, decoder.ts, fold-queue.ts. */
export interface StageParts {
  readonly runner: ModelRunner;
  readonly rows: Rows;
  readonly wiper: CacheWiper;
  readonly counters: ServiceCounters;
  readonly budget: PrefillBudget;
  readonly observer: EngineObserver;
  /** Milliseconds. */
  readonly now: () => number;
  /** Whether results may be sent now. If not, this call has ended all requests. */
  readonly mayTell: () => boolean;
}
