import t from "tap";
import {
  planPrefill,
  type PrefillChunk,
  type PrefillLimits,
  type Schedulable,
  type SchedulerState,
} from "../../../src/engine/scheduling/plan.ts";
import { seededRandom } from "../../support/model.ts";
import { firstFit, tokenLimits } from "../../support/plans.ts";

interface Job extends Schedulable {
  readonly id: number;
}

let jobs = 0;
const job = (promptLength: number, given: Partial<Omit<Job, "id" | "tenant">> = {}): Job => ({
  id: jobs++,
  tenant: "all",
  rows: 1,
  fed: 0,
  passedOver: 0,
  promptLength,
  ...given,
});
const plan = (state: Partial<SchedulerState<Job>>, chunkTokens = 8): PrefillChunk<Job>[] =>
  planPrefill(
    { running: 0, slots: 4, prefilling: null, queue: [], ...state },
    firstFit,
    tokenLimits(chunkTokens, chunkTokens),
  );
/** Index of the request that comes next, or -1. */
const next = (queue: readonly Job[], freeRows: number): number => {
  const pick = firstFit(queue, freeRows, []);
  return pick === null ? -1 : queue.indexOf(pick.request);
};
/** [index in `of`, from, to, last] of each chunk. */
const brief = (chunks: readonly PrefillChunk<Job>[], of: readonly Job[]): [number, number, number, boolean][] =>
  chunks.map(({ request, from, to, last }) => [of.indexOf(request), from, to, last]);

t.test("an empty queue gives an empty plan", async (t) => {
  t.same(plan({}), []);
  t.same(plan({ running: 4 }), []);
});

t.test("short prompts are fed whole, in queue order, while tokens and rows last", async (t) => {
  const queue = [job(3), job(4), job(1), job(1)];
  t.same(
    brief(plan({ queue }), queue),
    [
      [0, 0, 3, true],
      [1, 0, 4, true],
      [2, 0, 1, true],
    ],
    "3 + 4 + 1 tokens fill the budget of 8",
  );
  t.same(
    brief(plan({ queue, slots: 2 }), queue),
    [
      [0, 0, 3, true],
      [1, 0, 4, true],
    ],
    "two rows",
  );
  t.same(brief(plan({ queue, running: 3 }), queue), [[0, 0, 3, true]], "one row left");
  t.same(plan({ queue, running: 4 }), [], "none left");
});

t.test("prompts are cut at multiples of the chunk, whatever is left of the budget", async (t) => {
  const long = job(21);
  t.same(brief(plan({ queue: [long] }), [long]), [[0, 0, 8, false]]);
  const second = { ...long, fed: 8 };
  t.same(brief(plan({ prefilling: second }), [second]), [[0, 8, 16, false]]);
  const third = { ...long, fed: 16 };
  const next = job(3);
  t.same(
    brief(plan({ prefilling: third, queue: [next] }), [third, next]),
    [
      [0, 16, 21, true],
      [1, 0, 3, true],
    ],
    "the tail leaves room for another",
  );

  const short = job(3);
  t.same(
    brief(plan({ queue: [short, long] }), [short, long]),
    [[0, 0, 3, true]],
    "5 tokens are left: the long prompt's first chunk stays whole and waits",
  );
  t.same(
    brief(plan({ queue: [job(8), job(1)] }), []).length,
    1,
    "a prompt of exactly one chunk takes the whole budget",
  );
  const exact = job(16, { fed: 8 });
  t.same(
    brief(plan({ prefilling: exact }), [exact]),
    [[0, 8, 16, true]],
    "a prompt that ends at a boundary ends there",
  );
});

t.test("at most one prompt is partly fed, and nothing is admitted behind it", async (t) => {
  const open = job(30, { fed: 8 });
  t.same(brief(plan({ prefilling: open, queue: [job(1), job(1)] }), [open]), [[0, 8, 16, false]]);
});

t.test("a prefill in progress holds its rows", async (t) => {
  const open = job(10, { rows: 3, fed: 8 });
  const [pair, single] = [job(1, { rows: 2 }), job(1)];
  t.same(
    brief(plan({ prefilling: open, queue: [pair, single] }), [open, pair, single]),
    [
      [0, 8, 10, true],
      [2, 0, 1, true],
    ],
    "4 slots - 3: one row",
  );
  t.same(brief(plan({ prefilling: open, running: 1, queue: [single] }), [open, single]), [[0, 8, 10, true]], "no row");
});

t.test("a request that does not fit is passed over, up to a limit", async (t) => {
  const wide = job(1, { rows: 4 });
  const rest = [job(1), job(1)];
  t.equal(next([wide, ...rest], 3), 1);
  t.equal(next([wide, ...rest], 4), 0);
  t.equal(next([wide], 3), -1);
  t.equal(next([], 3), -1);
  t.equal(next([{ ...wide, passedOver: 63 }, ...rest], 3), 1);
  t.equal(next([{ ...wide, passedOver: 64 }, ...rest], 3), -1, "now the others wait for it");
  t.equal(next([{ ...wide, passedOver: 64 }, ...rest], 4), 0);
  t.equal(next([rest[0]!, { ...wide, passedOver: 99 }], 3), 0, "those before it are not held back");
});

/** A millisecond a token, and ten for any chunk; cuts at multiples of 8. */
const timeLimits = (milliseconds: number, given: Partial<PrefillLimits<Job>> = {}): PrefillLimits<Job> => ({
  tokens: 64,
  quantum: 8,
  least: 16,
  milliseconds,
  cost: (_, from, to) => 10 + to - from,
  ...given,
});
const timed = (
  state: Partial<SchedulerState<Job>>,
  limits: PrefillLimits<Job>,
): [number, number, number, boolean][] => {
  const whole = { running: 1, slots: 8, prefilling: null, queue: [], ...state };
  return brief(planPrefill(whole, firstFit, limits), [
    ...(whole.prefilling === null ? [] : [whole.prefilling]),
    ...whole.queue,
  ]);
};

t.test("a chunk is as long as the time allows, and never below the minimum", async (t) => {
  const long = job(900);
  t.same(timed({ queue: [long] }, timeLimits(Infinity)), [[0, 0, 64, false]]);
  t.same(timed({ queue: [long] }, timeLimits(74)), [[0, 0, 64, false]], "10 + 64");
  t.same(timed({ queue: [long] }, timeLimits(73)), [[0, 0, 56, false]]);
  t.same(timed({ queue: [long] }, timeLimits(40)), [[0, 0, 24, false]]);
  t.same(timed({ queue: [long] }, timeLimits(1)), [[0, 0, 16, false]], "the least");
  const later = { ...long, fed: 896 };
  t.same(timed({ prefilling: later }, timeLimits(1)), [[0, 896, 900, true]], "the rest is less than that");
});

t.test("a second chunk in a step has the length it would have alone, or waits", async (t) => {
  const queue = [job(20), job(15), job(40)];
  t.same(
    timed({ queue }, timeLimits(Infinity)),
    [
      [0, 0, 20, true],
      [1, 0, 15, true],
    ],
    "29 tokens are left, and the third has 40",
  );
  t.same(
    timed({ queue }, timeLimits(55)),
    [
      [0, 0, 20, true],
      [1, 0, 15, true],
    ],
    "30 + 25 milliseconds",
  );
  t.same(timed({ queue }, timeLimits(54)), [[0, 0, 20, true]]);
  t.same(timed({ queue: [job(3)] }, timeLimits(1)), [[0, 0, 3, true]], "the first goes on whatever it takes");
});

t.test("where cuts are free, no chunk leaves a single token", async (t) => {
  for (const length of [17, 33, 57, 65, 73, 129]) {
    let fed = 0;
    const chunks: number[] = [];
    while (fed < length) {
      const [, from, to] = timed({ prefilling: job(length, { fed }) }, timeLimits(1))[0]!;
      chunks.push(to - from);
      fed = to;
    }
    t.notOk(
      chunks.some((tokens) => tokens % 16 === 1),
      `${length}: ${chunks.join(" + ")}`,
    );
  }
  t.same(timed({ queue: [job(65)] }, timeLimits(Infinity)), [[0, 0, 56, false]], "56 + 9, not 64 + 1");
  t.same(timed({ queue: [job(17)] }, timeLimits(Infinity)), [
    [0, 0, 8, false],
    [0, 8, 17, true],
  ]);
  t.same(timed({ queue: [job(1)] }, timeLimits(Infinity)), [[0, 0, 1, true]]);
  t.same(
    timed({ prefilling: job(65, { fed: 64 }) }, { ...timeLimits(Infinity), quantum: 64 }),
    [[0, 64, 65, true]],
    "always the same cuts: nothing to see",
  );
});

t.test("where chunking changes bits, time moves no cut", async (t) => {
  const limits = (milliseconds: number): PrefillLimits<Job> => timeLimits(milliseconds, { quantum: 64 });
  for (const milliseconds of [1, 50, Infinity])
    t.same(timed({ queue: [job(100)] }, limits(milliseconds)), [[0, 0, 64, false]]);
  t.same(timed({ queue: [job(30), job(30)] }, limits(1)), [[0, 0, 30, true]], "but how many there are in a step");
});

t.test("within any limits, chunks fit, cuts are allowed, and every prompt is fed to its end", async (t) => {
  const random = seededRandom(2);
  const upTo = (n: number): number => Math.floor(random() * (n + 1));
  for (let round = 0; round < 3000; round++) {
    const tokens = 16 + upTo(90);
    const jobs = Array.from({ length: 1 + upTo(5) }, () => ({ ...job(1 + upTo(200)), fed: 0 }));
    const queue = [...jobs];
    let prefilling: Job | null = null;
    for (let step = 0; queue.length > 0 || prefilling !== null; step++) {
      if (step > 1000) return t.fail("nothing moves");
      const limits = timeLimits(random() < 0.3 ? Infinity : upTo(120), { tokens, least: 1 + upTo(40) });
      const state: SchedulerState<Job> = { running: 1, slots: 9, prefilling, queue };
      let left = limits.milliseconds;
      const chunks = planPrefill(state, firstFit, limits);
      if (chunks.length === 0) return t.fail("a step without a chunk");
      for (const [index, { request, from, to, last }] of chunks.entries()) {
        left -= limits.cost(request, from, to);
        if (index > 0 && left < 0) return t.fail("too long a step");
        if (from !== request.fed || to <= from || to - from > tokens || last !== (to === request.promptLength))
          return t.fail("no chunk of this prompt");
        if ((!last && to % 8 !== 0) || ((to - from) % 16 === 1 && request.promptLength > 1))
          return t.fail("a cut that shows");
        if (from === 0) queue.splice(queue.indexOf(request), 1);
        (request as { fed: number }).fed = to;
        prefilling = last ? null : request;
      }
    }
    if (jobs.some(({ fed, promptLength }) => fed !== promptLength)) t.fail("not fed to its end");
  }
  t.pass("all fed");
});

/** A seeded queue and state. */
function randomState(random: () => number): { state: SchedulerState<Job>; chunkTokens: number } {
  const upTo = (n: number): number => Math.floor(random() * (n + 1));
  const chunkTokens = 1 + upTo(15);
  const slots = 1 + upTo(15);
  let free = slots;
  let prefilling: Job | null = null;
  if (random() < 0.5) {
    const chunks = 1 + upTo(3);
    prefilling = job(chunks * chunkTokens + 1 + upTo(40), { rows: 1 + upTo(slots - 1), fed: chunks * chunkTokens });
    free -= prefilling.rows;
  }
  const queue = Array.from({ length: upTo(12) }, () =>
    job(1 + upTo(random() < 0.7 ? chunkTokens : 60), {
      rows: 1 + upTo(random() < 0.7 ? 1 : slots - 1),
      passedOver: upTo(80),
    }),
  );
  return { state: { running: upTo(free), slots, prefilling, queue }, chunkTokens };
}

t.test(
  "in any state, budgets hold, cuts are aligned, nothing that fits is left out, and the input is unchanged",
  async (t) => {
    const random = seededRandom(1);
    const bad: unknown[] = [];
    for (let round = 0; round < 20_000; round++) {
      const { state, chunkTokens } = randomState(random);
      const before = structuredClone(state);
      const chunks = planPrefill(state, firstFit, tokenLimits(chunkTokens, chunkTokens));
      const fail = (why: string): void => void bad.push({ why, round, state, chunkTokens, chunks });
      if (JSON.stringify(state) !== JSON.stringify(before)) fail("the state was changed");

      const tokens = chunks.reduce((sum, { from, to }) => sum + to - from, 0);
      if (tokens > chunkTokens) fail("more tokens than the budget");
      let free = state.slots - state.running - (state.prefilling?.rows ?? 0);
      const fed = new Map<Job, number>();
      let open: Job | null = state.prefilling;
      for (const { request, from, to, last } of chunks) {
        if (open !== null && request !== open) fail("another prompt was left half fed");
        if (!fed.has(request)) {
          if (request !== state.prefilling) free -= request.rows;
          if (request !== state.prefilling && !state.queue.includes(request)) fail("a request from nowhere");
        }
        if (from !== (fed.get(request) ?? request.fed)) fail("a gap in the prompt");
        if (from % chunkTokens !== 0 || (to % chunkTokens !== 0 && to !== request.promptLength) || to <= from)
          fail("a cut off the grid");
        if (to - from > chunkTokens) fail("a chunk longer than it may be");
        if (last !== (to === request.promptLength)) fail("wrong `last`");
        fed.set(request, to);
        open = last ? null : request;
      }
      if (free < 0) fail("more rows than there are");

      if (open !== null) {
        const from = fed.get(open) ?? open.fed;
        if (chunkTokens - tokens >= Math.min(open.promptLength - from, chunkTokens))
          fail("the next chunk would have fitted");
      } else {
        const waiting = state.queue.filter((request) => !fed.has(request));
        const pick = waiting[next(waiting, free)];
        if (pick !== undefined && chunkTokens - tokens >= Math.min(pick.promptLength, chunkTokens))
          fail("the next request would have fitted");
      }
    }
    t.same(bad.slice(0, 1), []);
  },
);

t.test("a simulated run admits every request, including wide ones in a flood of small ones", async (t) => {
  interface Sim extends Job {
    fed: number;
    passedOver: number;
    promptLength: number;
    readonly arrived: number;
    readonly generate: number;
  }
  for (let seed = 0; seed < 60; seed++) {
    const random = seededRandom(seed);
    const slots = 2 + Math.floor(random() * 7);
    const chunkTokens = 4 + Math.floor(random() * 12);
    const queue: Sim[] = [];
    let prefilling: Sim | null = null;
    const running: { owner: Sim; left: number }[] = [];
    let submitted = 0;
    let admitted = 0;
    let longestWait = 0;
    let peak = 0;
    for (let step = 0; submitted < 600 || queue.length + running.length > 0 || prefilling !== null; step++) {
      if (step > 20_000) return t.fail(`seed ${seed}: ${queue.length} requests still wait`);
      // Kept full, so that small requests always compete for the rows that a wide one needs.
      while (submitted < 600 && queue.length < 20) {
        const wide = random() < 0.05;
        submitted++;
        queue.push({
          ...job(1 + Math.floor(random() * 3 * chunkTokens), { rows: wide ? slots : 1 }),
          arrived: step,
          generate: 1 + Math.floor(random() * 6),
        });
      }
      const state: SchedulerState<Sim> = { running: running.length, slots, prefilling, queue };
      for (const { request, from, to, last, passedOver } of planPrefill<Sim>(
        state,
        firstFit,
        tokenLimits(chunkTokens, chunkTokens),
      )) {
        if (from === 0) {
          const index = queue.indexOf(request);
          for (const passed of passedOver) passed.passedOver++;
          queue.splice(index, 1);
          admitted++;
          longestWait = Math.max(longestWait, step - request.arrived);
        }
        request.fed = to;
        prefilling = last ? null : request;
        if (last) for (let i = 0; i < request.rows; i++) running.push({ owner: request, left: request.generate });
      }
      peak = Math.max(peak, running.length + (prefilling?.rows ?? 0));
      for (let row = running.length - 1; row >= 0; row--) if (--running[row]!.left === 0) running.splice(row, 1);
    }
    if (admitted !== 600 || peak > slots) t.fail(`seed ${seed}: ${admitted} admitted, ${peak} rows of ${slots}`);
    // 64 admissions ahead of it, then at most the 20 before it in the queue, each some steps long.
    if (longestWait > 1500) t.fail(`seed ${seed}: somebody waited ${longestWait} steps`);
  }
  t.pass("all admitted");
});
