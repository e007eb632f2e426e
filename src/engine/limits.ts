import { PrefixdError } from "../errors.ts";
import type { TenantShares } from "./fair-share.ts";
import { rowsOf, type EngineRequest } from "./request.ts";

/** What a limit on something that waits says: there is no telling when there will be room, so try again soon. */
const RETRY_SECONDS = 1;

export interface QueueRoom {
  /** Requests that may wait. */
  readonly maxQueue: number;
  /** Rows that nobody holds: what the next step can admit does not wait, so a burst into free rows is no queue. */
  readonly freeRows: number;
}

/** @throws PrefixdError queue_full, user_queue_full, invalid_parameter (more rows than the tenant may ever hold) */
export function checkQueueLimits(request: EngineRequest, queue: readonly { readonly tenant: string }[], { maxQueue, freeRows }: QueueRoom, shares: TenantShares): void {
  const { tenant } = request;
  const { maxQueued, maxRunning } = shares.of(tenant);
  const rows = rowsOf(request);
  if (maxRunning !== null && rows > maxRunning) {
    throw new PrefixdError("invalid_parameter", `${rows} sequences are asked for (n, best_of or num_beams), but only ${maxRunning} of this user may run at once.`);
  }
  if (maxQueued !== null) {
    let queued = 0;
    for (const waiting of queue) if (waiting.tenant === tenant) queued++;
    // The user's own limit first: its name says who can do something about it.
    if (queued >= maxQueued + freeRows) {
      const limit = { name: "user_queue", quota: maxQueued, remaining: 0, resetSeconds: RETRY_SECONDS } as const;
      throw new PrefixdError("user_queue_full", `${maxQueued} requests of this user are waiting already.`, { retryAfter: RETRY_SECONDS, limit });
    }
  }
  if (queue.length >= maxQueue + freeRows) throw queueFull(maxQueue);
}

export function queueFull(maxQueue: number): PrefixdError {
  const limit = { name: "queue", quota: maxQueue, remaining: 0, resetSeconds: RETRY_SECONDS } as const;
  return new PrefixdError("queue_full", `${maxQueue} requests are waiting already.`, { retryAfter: RETRY_SECONDS, limit });
}

/** Rows that each tenant holds: one per running sequence, and those that wait for a prompt that is being fed. */
export function heldRows(running: readonly string[], prefilling: { readonly tenant: string; readonly n: number } | null): Map<string, number> {
  const held = new Map<string, number>();
  for (const tenant of running) held.set(tenant, (held.get(tenant) ?? 0) + 1);
  if (prefilling !== null) held.set(prefilling.tenant, (held.get(prefilling.tenant) ?? 0) + prefilling.n);
  return held;
}
