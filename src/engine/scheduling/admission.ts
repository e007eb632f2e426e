import { PrefixdError } from "../../errors.ts";
import type { TenantShares } from "./fair-share.ts";
import { rowsOf, type EngineRequest } from "../request.ts";

/** `Retry-After` of queue limits: nobody can tell when there will be room, so try again soon. */
const RETRY_SECONDS = 1;

export interface QueueRoom {
  /** Requests that may wait. */
  readonly maxQueue: number;
  /** Unused rows. What the next step can admit does not count as waiting, so a burst into free rows is not a queue. */
  readonly freeRows: number;
}

interface Waiting {
  readonly tenant: string;
}

/** The parts of a sequence, in tokens. */
export interface ContextLengths {
  /** Virtual tokens. */
  readonly prefix: number;
  readonly prompt: number;
  readonly maxNew: number;
}

/**
 * How many new tokens fit behind prefix and prompt. Every token takes a position except the last new one, which is
 * never fed. With no new tokens the prompt's last one is still fed, so 0 needs as much room as 1.
 */
export function roomFor({ prefix, prompt }: Pick<ContextLengths, "prefix" | "prompt">, positions: number): number {
  return positions + 1 - prefix - prompt;
}

/**
 * Refuses what does not fit a row of the KV cache. On a device the next row begins where one ends, and no kernel would
 * notice an overrun. `which` names the prompt, if there are several.
 * @throws PrefixdError context_exceeded
 */
export function checkContext(lengths: ContextLengths, positions: number, which = ""): void {
  const { prefix, prompt, maxNew } = lengths;
  // Written so that NaN is refused as well.
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
      `The request asks for ${rows} sequences (n, best_of or num_beams), but this user may run only ${maxRunning} at once.`,
    );
  }
  if (maxQueued !== null) {
    let queued = 0;
    for (const waiting of queue) if (waiting.tenant === tenant) queued++;
    // The user's own limit comes first: its name tells who can act on it.
    if (queued >= maxQueued + room.freeRows) {
      const limit = { name: "user_queue", quota: maxQueued, remaining: 0, resetSeconds: RETRY_SECONDS } as const;
      throw new PrefixdError(
        "user_queue_full",
        `max_queued of this user is ${maxQueued}, and ${queued} requests wait; this one would be one more.`,
        {
          retryAfter: RETRY_SECONDS,
          limit,
        },
      );
    }
  }
  checkRoom(tenant, queue, room, shares);
}

/**
 * Queue places are shared like the model: by weight, among the tenants with waiting requests. So a tenant that floods
 * the queue shuts nobody else out: a tenant with nothing waiting gets into a full queue too, up to twice its size. A
 * tenant that waits alone may use all places.
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
  const why = full
    ? `${queue.length} requests wait`
    : `${own} of this user wait, whose share of the places is ${share}`;
  throw new PrefixdError("queue_full", `--max-queue is ${maxQueue}, and ${why}; this one would be one more.`, {
    retryAfter: RETRY_SECONDS,
    limit,
  });
}

export function queueTimeout(milliseconds: number): PrefixdError {
  return new PrefixdError(
    "queue_timeout",
    `The request has waited for ${milliseconds / 1000} s without getting its turn.`,
    {
      retryAfter: RETRY_SECONDS,
    },
  );
}

/** Rows held by requests whose prompts are being fed. */
export const prefillingRows = (prefilling: readonly { readonly rows: number }[]): number =>
  prefilling.reduce((sum, { rows }) => sum + rows, 0);

/** Rows that each tenant holds: one per running sequence, plus those of prompts that are being fed. */
export function heldRows(
  running: readonly string[],
  prefilling: readonly { readonly tenant: string; readonly rows: number }[],
): Map<string, number> {
  const held = new Map<string, number>();
  for (const tenant of running) held.set(tenant, (held.get(tenant) ?? 0) + 1);
  for (const { tenant, rows } of prefilling) held.set(tenant, (held.get(tenant) ?? 0) + rows);
  return held;
}
