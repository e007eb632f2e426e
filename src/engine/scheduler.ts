/**
 * What the next step does: a pure function of what is queued and what runs. Plans are plain data; the engine carries them out.
 *
 *     queue ──admit──▶ prefill (in chunks) ──last chunk──▶ rows [0, running) of the KV cache ──decode, one token a step──▶ done
 */

/** What the scheduler needs to know of a queued or prefilling request. */
export interface Schedulable {
  readonly tenant: string;
  /** Rows that it takes: one per choice, or per beam. */
  readonly n: number;
  readonly promptLength: number;
  /** Prompt tokens already fed. */
  readonly fed: number;
  /** How often another has been admitted in its turn because it did not fit. */
  readonly passedOver: number;
}

/** Feed prompt tokens `[from, to)` of a request; `last` when that completes the prompt. */
export interface PrefillChunk<R> {
  readonly request: R;
  readonly from: number;
  readonly to: number;
  readonly last: boolean;
  /** Requests whose turn it was before this one's, and which did not fit; told with the chunk that admits it. */
  readonly passedOver: readonly R[];
}

export interface SchedulerState<R extends Schedulable> {
  /** Rows that decode now. */
  readonly running: number;
  readonly slots: number;
  /** The request whose prompt is half fed, if any; it holds `n` rows. */
  readonly prefilling: R | null;
  readonly queue: readonly R[];
}

/** The request to admit next, and those whose turn it would have been. */
export interface Admission<R> {
  readonly request: R;
  readonly passedOver: readonly R[];
}

/**
 * Which request of `queue` (in order of arrival) to admit with `freeRows` rows to give; null: none now. `admitted` are the picks that
 * the same plan has made already. A pure function.
 */
export type QueuePolicy = <R extends Schedulable>(queue: readonly R[], freeRows: number, admitted: readonly R[]) => Admission<R> | null;

/** A request that has been passed over this often waits no longer behind smaller ones: they wait for it. */
export const MAX_PASSED_OVER = 64;

/** First come, first served, but one that does not fit does not block the rest until it has been passed over too often. */
export const firstFit: QueuePolicy = (queue, freeRows) => {
  for (const [index, request] of queue.entries()) {
    if (request.n <= freeRows) return { request, passedOver: queue.slice(0, index) };
    if (request.passedOver >= MAX_PASSED_OVER) return null;
  }
  return null;
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
  const admitted: R[] = [];
  let passedOver: readonly R[] = [];
  let open = state.prefilling;
  for (;;) {
    if (open === null) {
      const next = policy(queue, freeRows, admitted);
      if (next === null) return plan;
      ({ request: open, passedOver } = next);
      queue.splice(queue.indexOf(open), 1);
      admitted.push(open);
      freeRows -= open.n;
    }
    let from = open.fed;
    while (from < open.promptLength) {
      const to = Math.min(open.promptLength, (Math.floor(from / chunkTokens) + 1) * chunkTokens);
      if (to - from > budget) return plan;
      const last = to === open.promptLength;
      plan.push({ request: open, from, to, last, passedOver });
      passedOver = [];
      budget -= to - from;
      from = to;
    }
    open = null;
  }
}
