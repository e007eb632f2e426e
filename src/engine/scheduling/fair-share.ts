/**
 * Virtual Token Counter (Sheng et al., "Fairness in Serving Large Language Models", OSDI'24, algorithm 2 and its
 * weighted form): each tenant has a counter of the service that it has had, divided by its weight, and the tenant with
 * the smallest counter goes first.
 *
 *     service = 1 x prompt tokens + 2 x generated tokens        (w_p = 1, w_q = 2, the paper's prices)
 *
 * Prompts are charged at admission, generated tokens as they come; a token that takes long to choose counts as several
 * (choosing-cost.ts). A prefix's virtual tokens are copied, not computed, and cost nothing. For any two tenants that
 * both wait all the time, service by weight differs by at most 2 max(w_p L, w_q M) over the smaller of their weights
 * (theorem 4.4); L is the longest prompt, M the most tokens that one batch can generate.
 */
import { MAX_PASSED_OVER, type Admission, type QueuePolicy, type Schedulable } from "./plan.ts";

export const PROMPT_PRICE = 1;
export const OUTPUT_PRICE = 2;

export interface TenantShare {
  /** Share of the model relative to the other tenants', > 0. */
  readonly weight: number;
  /** Sequences that may run at once; null: any number. */
  readonly maxRunning: number | null;
  /** Requests that may wait at once. */
  readonly maxQueued: number | null;
}

/** Asked at each decision, so changes take effect at once. Called often: must not block or throw. */
export interface TenantShares {
  of(tenant: string): TenantShare;
}

const EQUAL: TenantShare = { weight: 1, maxRunning: null, maxQueued: null };
export const EQUAL_SHARES: TenantShares = { of: () => EQUAL };

/** The policy's input, as plain data. */
export interface FairShareState {
  /** Service by weight of each tenant that waits. */
  readonly counters: ReadonlyMap<string, number>;
  /** Rows that each tenant holds; absent: none. */
  readonly running: ReadonlyMap<string, number>;
  readonly shares: TenantShares;
}

/** One waiting tenant. */
interface Turn<R> {
  readonly counter: number;
  readonly running: number;
  readonly maxRunning: number | null;
  /** Its requests before the first one that fits: too wide for the free rows. */
  readonly wide: R[];
  fitting: R | null;
  /** One of `wide` has been passed over too often. */
  blocks: boolean;
  /** Its remaining requests do not matter. */
  closed: boolean;
}

/**
 * The policy for one state. Within a tenant, requests keep their order. One that is too wide for the free rows lets
 * others pass, its tenant's and other tenants', until it has been passed over too often; then everything with a later
 * turn waits. One held back only by its tenant's `maxRunning` makes that tenant wait and nobody else.
 */
export function fairShare(state: FairShareState): QueuePolicy {
  return <R extends Schedulable>(
    queue: readonly R[],
    freeRows: number,
    admitted: readonly R[],
  ): Admission<R> | null => {
    if (freeRows === 0) return null;
    const turns = new Map<string, Turn<R>>();
    for (const request of queue) {
      let turn = turns.get(request.tenant);
      if (turn === undefined) {
        turn = openTurn<R>(state, request.tenant, admitted);
        turns.set(request.tenant, turn);
      }
      if (!turn.closed) consider(turn, request, freeRows);
    }
    const passedOver: R[] = [];
    for (const turn of [...turns.values()].sort(byTurn)) {
      if (turn.blocks) return null;
      passedOver.push(...turn.wide);
      if (turn.fitting !== null) return { request: turn.fitting, passedOver };
    }
    return null;
  };
}

function openTurn<R extends Schedulable>(
  { counters, running, shares }: FairShareState,
  tenant: string,
  admitted: readonly R[],
): Turn<R> {
  const { weight, maxRunning } = shares.of(tenant);
  let counter = counters.get(tenant) ?? 0;
  let rows = running.get(tenant) ?? 0;
  for (const request of admitted) {
    if (request.tenant !== tenant) continue;
    counter += (PROMPT_PRICE * request.promptLength) / weight;
    rows += request.rows;
  }
  return { counter, running: rows, maxRunning, wide: [], fitting: null, blocks: false, closed: false };
}

function consider<R extends Schedulable>(turn: Turn<R>, request: R, freeRows: number): void {
  const { maxRunning, running } = turn;
  // If the limit was lowered below its width after it was accepted, it runs alone: otherwise it would wait forever.
  if (maxRunning !== null && running > 0 && running + request.rows > maxRunning) turn.closed = true;
  else if (request.rows <= freeRows) {
    turn.fitting = request;
    turn.closed = true;
  } else {
    turn.wide.push(request);
    turn.blocks = turn.closed = request.passedOver >= MAX_PASSED_OVER;
  }
}

/**
 * Smallest counter first. Ties are common, since a returning tenant is lifted to the smallest counter. They go to the
 * tenant that holds others up, then to the one with fewer rows, then to the one that came first (the sort is stable).
 */
function byTurn(a: Turn<unknown>, b: Turn<unknown>): number {
  return a.counter - b.counter || Number(b.blocks) - Number(a.blocks) || a.running - b.running;
}
