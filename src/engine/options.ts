import type { EngineObserver } from "../observability/engine-observer.ts";
import type { TenantShares } from "./scheduling/fair-share.ts";
import type { ModelRunner } from "./runner.ts";
import type { QueuePolicy } from "./scheduling/plan.ts";

export interface EngineOptions {
  readonly runner: ModelRunner;
  /** Requests that may wait, shared between tenants (scheduling/admission.ts). Beyond that: `queue_full`. */
  readonly maxQueue: number;
  /** Milliseconds that a request may wait before it ends with `queue_timeout`. Default: no limit. */
  readonly queueTimeoutMs?: number;
  /** Most prompt tokens per step, and so per chunk. */
  readonly prefillChunk: number;
  /**
   * Share of a step's time, in (0, 1], that prompts may take while others decode (prefill-budget.ts). Default: 1, no
   * limit.
   */
  readonly prefillShare?: number;
  /** Monotonic clock in milliseconds, used to predict how long runs take. */
  readonly now?: () => number;
  readonly observer: EngineObserver;
  /** Weights and limits of tenants. Default: equal weights, no limits. */
  readonly shares?: TenantShares;
  /** Replaces fair shares. */
  readonly policy?: QueuePolicy;
  /**
   * Whether results may be sent now. Asked before each request is accepted and before every token, so it must be cheap.
   * While it returns false, all requests end with `store_unavailable`. Default: always true.
   *
   * A process can be stopped at any instruction, including between this check and the write to a socket. So the check
   * is repeated when results are handed over and when they are written (generation.ts, sse.ts), each time in the same
   * turn as the write. Bytes that reach the socket before the lease ends precede the removal's receipt, which waits for
   * that end. What remains is a single event, from a process stopped within the last few instructions before the system
   * call.
   */
  readonly mayEmit?: () => boolean;
}
