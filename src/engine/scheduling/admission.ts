import { PrefixdError } from "../../errors.ts";
import type { TenantShares } from "./fair-share.ts";
import { rowsOf, type EngineRequest } from "../request.ts";

/** What a limit on something that waits says: there is no telling when there will be room, so try again soon. */
const RETRY_SECONDS = 1;

export interface QueueRoom {
  /** Requests that may wait. */
  readonly maxQueue: number;
  /** Rows that nobody holds: what the next step can admit does not wait, so a burst into free rows is no queue. */
  readonly freeRows: number;
}

interface Waiting {
  readonly tenant: string;
}

/** Tokens that a sequence is made of. */
export interface ContextLengths {
  /** Virtual tokens. */
  readonly prefix: number;
  readonly prompt: number;
  readonly maxNew: number;
}

/**
 * New tokens for which prefix and prompt leave room. All tokens are fed, and take a position each, but for the last new one; with no new
 * tokens the prompt's last one is fed all the same, so 0 needs as much room as 1.
 */
export function roomFor({ prefix, prompt }: Pick<ContextLengths, "prefix" | "prompt">, positions: number): number {
  return positions + 1 - prefix - prompt;
}

/**
 * Where a row of the KV cache ends on a device, the next one begins: no kernel would notice. So nothing that goes beyond it is let in.
 * `which` names the prompt, if there are several.
 * @throws PrefixdError context_exceeded
 */
export function checkContext(lengths: ContextLengths, positions: number, which = ""): void {
  const { prefix, prompt, maxNew } = lengths;
  // Not `>`, so that what is no number is refused as well.
  if (Math.max(1, maxNew) <= roomFor(lengths, positions)) return;
  const why =
    maxNew === 0
      ? `${prefix + prompt}; the model takes ${positions} where nothing is generated`
      : `${prefix + prompt + maxNew}; the model takes ${positions + 1}`;
  throw new PrefixdError(
    "context_exceeded",
    `${prefix} prefix + ${prompt} prompt${which} + ${maxNew} new tokens are ${why}.`,
  );
}

/** @throws PrefixdError queue_full, user_queue_full, invalid_parameter (more rows than the tenant may ever hold) */
export function checkQueueLimits(
  request: EngineRequest,
  queue: readonly Waiting[],
  room: QueueRoom,
  shares: TenantShares,
): void {
  const { tenant } = request;
  const { maxQueued, maxRunning } = shares.of(tenant);
  const rows = rowsOf(request);
  if (maxRunning !== null && rows > maxRunning) {
    throw new PrefixdError(
      "invalid_parameter",
      `${rows} sequences are asked for (n, best_of or num_beams), but only ${maxRunning} of this user may run at once.`,
    );
  }
  if (maxQueued !== null) {
    let queued = 0;
    for (const waiting of queue) if (waiting.tenant === tenant) queued++;
    // The user's own limit first: its name says who can do something about it.
    if (queued >= maxQueued + room.freeRows) {
      const limit = { name: "user_queue", quota: maxQueued, remaining: 0, resetSeconds: RETRY_SECONDS } as const;
      throw new PrefixdError("user_queue_full", `${maxQueued} requests of this user are waiting already.`, {
        retryAfter: RETRY_SECONDS,
        limit,
      });
    }
  }
  checkRoom(tenant, queue, room, shares);
}

/**
 * The queue's places are shared as the model is: by weight, among the tenants that have requests waiting. So a tenant's own requests
 * wait for no more than its share of the others', and one that floods the queue shuts nobody else out: who has nothing waiting is let
 * into a full queue too, up to as many once more. A tenant that waits alone has all places.
 *
 * @throws PrefixdError queue_full
 */
export function checkRoom(
  tenant: string,
  queue: readonly Waiting[],
  { maxQueue, freeRows }: QueueRoom,
  shares: TenantShares,
): void {
  if (queue.length < freeRows) return;
  const tenants = new Set([tenant]);
  let own = 0;
  for (const waiting of queue) {
    tenants.add(waiting.tenant);
    if (waiting.tenant === tenant) own++;
  }
  let weights = 0;
  for (const one of tenants) weights += shares.of(one).weight;
  const share = Math.ceil((maxQueue * shares.of(tenant).weight) / weights);
  const places = own === 0 ? 2 * maxQueue : maxQueue;
  const full = queue.length >= places + freeRows;
  if (!full && own < Math.max(1, share + freeRows)) return;
  const limit = { name: "queue", quota: maxQueue, remaining: 0, resetSeconds: RETRY_SECONDS } as const;
  const why = full ? String(queue.length) : `${own} of this user, whose share of the ${maxQueue} places is ${share}`;
  throw new PrefixdError("queue_full", `Too many requests are waiting already: ${why}.`, {
    retryAfter: RETRY_SECONDS,
    limit,
  });
}

export function queueTimeout(milliseconds: number): PrefixdError {
  return new PrefixdError("queue_timeout", `The request has waited for ${milliseconds / 1000} s without its turn.`, {
    retryAfter: RETRY_SECONDS,
  });
}

/** Rows of requests whose prompts are being fed. */
export const prefillingRows = (prefilling: readonly { readonly rows: number }[]): number =>
  prefilling.reduce((sum, { rows }) => sum + rows, 0);

/** Rows that each tenant holds: one per running sequence, and those that wait for a prompt that is being fed. */
export function heldRows(
  running: readonly string[],
  prefilling: readonly { readonly tenant: string; readonly rows: number }[],
): Map<string, number> {
  const held = new Map<string, number>();
  for (const tenant of running) held.set(tenant, (held.get(tenant) ?? 0) + 1);
  for (const { tenant, rows } of prefilling) held.set(tenant, (held.get(tenant) ?? 0) + rows);
  return held;
}
