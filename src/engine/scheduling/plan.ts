/**
 * What the next step does: a pure function of what is queued and what runs. Plans are plain data; the engine carries
 * them out.
 *
 *     queue ──admit──▶ prefill (in chunks) ──last chunk──▶ rows [0, running) of the KV cache ──decode──▶ done
 */

/** What the scheduler needs to know of a queued or prefilling request. */
export interface Schedulable {
  readonly tenant: string;
  /** Rows that it takes: one per choice, or per beam. */
  readonly rows: number;
  readonly promptLength: number;
  /** Prompt tokens already fed. */
  readonly fed: number;
  /** How often another request was admitted in its turn because it did not fit. */
  readonly passedOver: number;
}

/** Feed prompt tokens `[from, to)` of a request; `last` when that completes the prompt. */
export interface PrefillChunk<R> {
  readonly request: R;
  readonly from: number;
  readonly to: number;
  readonly last: boolean;
  /** Requests whose turn came before this one's but which did not fit; set on the chunk that admits it. */
  readonly passedOver: readonly R[];
}

export interface SchedulerState<R extends Schedulable> {
  /** Rows that decode now. */
  readonly running: number;
  readonly slots: number;
  /** The request whose prompt is half fed, if any. It holds its `rows` already. */
  readonly prefilling: R | null;
  readonly queue: readonly R[];
}

/** The request to admit next, and those passed over for it. */
export interface Admission<R> {
  readonly request: R;
  readonly passedOver: readonly R[];
}

/**
 * Which request of `queue` (in order of arrival) to admit to `freeRows` free rows; null: none now. `admitted`: what the
 * same plan has already admitted. A pure function.
 */
export type QueuePolicy = <R extends Schedulable>(
  queue: readonly R[],
  freeRows: number,
  admitted: readonly R[],
) => Admission<R> | null;

/** After being passed over this often, a request no longer waits for smaller ones: they wait for it. */
export const MAX_PASSED_OVER = 64;

/** What one step may spend on prompts. */
export interface PrefillLimits<R> {
  /** Tokens. */
  readonly tokens: number;
  /** Prompts may be cut at multiples of this. If it equals `tokens`, always at the same places. */
  readonly quantum: number;
  /**
   * Milliseconds, as predicted by `cost`. A step's first chunk is fed even if it takes longer, but is then as short as
   * `least` allows.
   */
  readonly milliseconds: number;
  /** No chunk is made shorter than this many tokens to save time. */
  readonly least: number;
  /** Predicted milliseconds of prompt tokens `[from, to)` of a request. */
  readonly cost: (request: R, from: number, to: number) => number;
}

/**
 * The prefill work of one step, within the limits, so that running sequences wait no longer than that. At most one
 * request is left half fed, and nothing is admitted behind it. A chunk that follows another is as long as it would be
 * in a step of its own, or waits for one.
 */
export function planPrefill<R extends Schedulable>(
  state: SchedulerState<R>,
  policy: QueuePolicy,
  limits: PrefillLimits<R>,
): PrefillChunk<R>[] {
  const plan: PrefillChunk<R>[] = [];
  const queue = [...state.queue];
  let { tokens, milliseconds } = limits;
  let freeRows = state.slots - state.running - (state.prefilling?.rows ?? 0);
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
      freeRows -= open.rows;
    }
    let from = open.fed;
    while (from < open.promptLength) {
      const to = endOfChunk(open, from, limits);
      const cost = limits.cost(open, from, to);
      if (plan.length > 0 && (to - from > tokens || cost > milliseconds)) return plan;
      const last = to === open.promptLength;
      plan.push({ request: open, from, to, last, passedOver });
      passedOver = [];
      tokens -= to - from;
      milliseconds -= cost;
      from = to;
    }
    open = null;
  }
}

/** Limits on the prompts of one run of the model. */
export interface PromptRunLimits {
  readonly promptsAtOnce: number;
  /** Tokens. */
  readonly longestChunk: number;
}

/**
 * Groups a plan's chunks into runs. Adjacent whole prompts share a run, if they may. The end of a prompt begun in an
 * earlier step gets its own run: its row was chosen when other rows were in use.
 */
export function inRuns<R>(
  plan: readonly PrefillChunk<R>[],
  { promptsAtOnce, longestChunk }: PromptRunLimits,
  mayShare: (request: R) => boolean,
): PrefillChunk<R>[][] {
  const runs: PrefillChunk<R>[][] = [];
  /** The last run, as long as another chunk may join it. */
  let open: PrefillChunk<R>[] | null = null;
  let tokens = 0;
  for (const chunk of plan) {
    const shares = chunk.from === 0 && chunk.last && mayShare(chunk.request);
    tokens += chunk.to - chunk.from;
    if (open !== null && shares && tokens <= longestChunk && open.length < promptsAtOnce) {
      open.push(chunk);
      continue;
    }
    const run = [chunk];
    runs.push(run);
    open = shares ? run : null;
    tokens = chunk.to - chunk.from;
  }
  return runs;
}

/** Where cuts change no bits, prompts are cut at multiples of this. Chunks may be at least twice as long. */
export const FREE_QUANTUM = 8;

/**
 * Where a chunk that starts at `from` ends, given a step of its own: at a multiple of the quantum or at the end of the
 * prompt, as far away as the limits allow.
 *
 * Where cuts are free, no chunk's length is 1 modulo 16. Attention kernels process a chunk in blocks (ONNX Runtime's
 * have twice head_dim tokens) and use a different kernel, with different last bits, for a block of one token. So
 * whether a token is alone must not depend on the cuts.
 */
export function endOfChunk<R extends Pick<Schedulable, "promptLength">>(
  request: R,
  from: number,
  { tokens, quantum, milliseconds, least, cost }: PrefillLimits<R>,
): number {
  const { promptLength } = request;
  const free = quantum < tokens;
  const allowed = (cut: number): boolean => !free || promptLength === 1 || (promptLength - cut) % (2 * quantum) !== 1;
  const before = (end: number): number => {
    const cut = (Math.ceil(end / quantum) - 1) * quantum;
    return allowed(cut) ? cut : cut - quantum;
  };
  const furthest = Math.min(promptLength, free ? from + tokens : (Math.floor(from / tokens) + 1) * tokens);
  let to =
    furthest === promptLength && allowed(from)
      ? promptLength
      : before(furthest === promptLength ? furthest : furthest + 1);
  while (cost(request, from, to) > milliseconds && before(to) >= from + least) to = before(to);
  return to;
}
