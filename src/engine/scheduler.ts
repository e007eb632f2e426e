/**
 * What the next step does: a pure function of what is queued and what runs. Plans are plain data; the engine carries them out.
 *
 *     queue ──admit──▶ prefill (in chunks) ──last chunk──▶ rows [0, running) of the KV cache ──decode, one token a step──▶ done
 */

/** What the scheduler needs to know of a queued or prefilling request. */
export interface Schedulable {
  /** Rows that it takes: one per choice. */
  readonly n: number;
  readonly promptLength: number;
  /** Prompt tokens already fed. */
  readonly fed: number;
  /** How often a later request has been admitted before this one. */
  readonly passedOver: number;
}

/** Feed prompt tokens `[from, to)` of a request; `last` when that completes the prompt. */
export interface PrefillChunk<R> {
  readonly request: R;
  readonly from: number;
  readonly to: number;
  readonly last: boolean;
}

export interface SchedulerState<R extends Schedulable> {
  /** Rows that decode now. */
  readonly running: number;
  readonly slots: number;
  /** The request whose prompt is half fed, if any; it holds `n` rows. */
  readonly prefilling: R | null;
  readonly queue: readonly R[];
}

/** Index in `queue` of the request to admit next with `freeRows` rows to give, or -1. */
export type QueuePolicy = <R extends Schedulable>(queue: readonly R[], freeRows: number) => number;

/** A request that has been passed over this often waits no longer behind smaller ones: they wait for it. */
const MAX_PASSED_OVER = 64;

/** First come, first served, but one that does not fit does not block the rest until it has been passed over too often. */
export const firstFit: QueuePolicy = (queue, freeRows) => {
  for (const [index, request] of queue.entries()) {
    if (request.n <= freeRows) return index;
    if (request.passedOver >= MAX_PASSED_OVER) return -1;
  }
  return -1;
};

/**
 * Prefill work of one step: at most `chunkTokens` prompt tokens, so that the running sequences wait for no more than that.
 * A prompt is cut at multiples of `chunkTokens` whatever else runs: the same request always runs as the same matrix shapes, which
 * is what makes its numbers independent of its neighbours. At most one request is left half fed, and nothing is admitted behind it.
 */
export function planPrefill<R extends Schedulable>(state: SchedulerState<R>, policy: QueuePolicy, chunkTokens: number): PrefillChunk<R>[] {
  const plan: PrefillChunk<R>[] = [];
  const queue = [...state.queue];
  let budget = chunkTokens;
  let freeRows = state.slots - state.running - (state.prefilling?.n ?? 0);
  let open = state.prefilling;
  for (;;) {
    if (open === null) {
      const next = queue[policy(queue, freeRows)];
      if (next === undefined) return plan;
      queue.splice(queue.indexOf(next), 1);
      freeRows -= next.n;
      open = next;
    }
    let from = open.fed;
    while (from < open.promptLength) {
      const to = Math.min(open.promptLength, (Math.floor(from / chunkTokens) + 1) * chunkTokens);
      if (to - from > budget) return plan;
      const last = to === open.promptLength;
      plan.push({ request: open, from, to, last });
      budget -= to - from;
      from = to;
    }
    open = null;
  }
}
