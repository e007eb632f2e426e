import type { EngineObserver } from "../observability/engine-observer.ts";
import type { TenantShares } from "./scheduling/fair-share.ts";
import type { ModelRunner } from "./runner.ts";
import type { QueuePolicy } from "./scheduling/plan.ts";

export interface EngineOptions {
  readonly runner: ModelRunner;
  /** Requests that may wait, shared between tenants (scheduling/admission.ts); beyond that `queue_full`. */
  readonly maxQueue: number;
  /** Milliseconds that a request may wait; then it ends with `queue_timeout`. Default: no limit. */
  readonly queueTimeoutMs?: number;
  /** Prompt tokens per step: the most that a chunk of a prompt has. */
  readonly prefillChunk: number;
  /** Part of a step's time, in (0, 1], that chunks of prompts may take while others decode (prefill-budget.ts). Default: 1, no limit. */
  readonly prefillShare?: number;
  /** Milliseconds on a clock that only goes forward; for the durations from which that time is foreseen. */
  readonly now?: () => number;
  readonly observer: EngineObserver;
  /** Weights and limits of the tenants; without it all are equal and have none. */
  readonly shares?: TenantShares;
  /** Instead of fair shares. */
  readonly policy?: QueuePolicy;
  /**
   * Whether anything may be told to anybody now: asked before a request is taken and before every token, so it must be cheap. While
   * it says no, all requests end with `store_unavailable`. Default: always.
   *
   * A process can be stopped at any instruction, also between this question and the write to a socket, so it is asked again as the
   * results are handed over and written (generation.ts, sse.ts), each time in the same turn as the write. Bytes that reached the
   * socket before the lease ended came before the removal's receipt, which waits for that end; what remains is one event of a process
   * that is stopped within the last few instructions before the system call.
   */
  readonly mayEmit?: () => boolean;
}
