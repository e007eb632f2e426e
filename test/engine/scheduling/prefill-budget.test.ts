/** How long chunks of prompts are made while others decode, on a machine whose time is computed. */
import t from "tap";
import { Engine } from "../../../src/engine/engine.ts";
import { PrefillBudget, type FedPrompt } from "../../../src/engine/scheduling/prefill-budget.ts";
import type { EngineRequest } from "../../../src/engine/request.ts";
import { effort } from "../../support/effort.ts";
import { FakeRunner, oracle } from "../../support/fake-runner.ts";
import { engineRequest, seededRandom } from "../../support/model.ts";
import { CountingObserver, Recording } from "../../support/recording.ts";

const SHARE = 0.35;
/** What a step may take of the decode run in it. */
const BOUND = 1 / (1 - SHARE);
const prompt: FedPrompt = { prefixLength: 0, promptLength: 1000, answers: "last" };
const scored: FedPrompt = { ...prompt, answers: "all" };

t.test("no limit while nothing decodes, nothing is measured, or none is set", async (t) => {
  const budget = new PrefillBudget(SHARE);
  const demand = { tokens: 64, chunkingChangesBits: false, decoding: 3, waiting: 1 };
  t.match(budget.limits(demand), { tokens: 64, quantum: 8, milliseconds: Infinity });
  budget.decoded(60);
  t.equal(Math.round(budget.limits(demand).milliseconds), 32);
  t.equal(budget.limits({ ...demand, decoding: 0 }).milliseconds, Infinity);
  const boundless = new PrefillBudget(1);
  boundless.decoded(60);
  t.equal(boundless.limits(demand).milliseconds, Infinity);
});

t.test("cuts that change bits stay at multiples of the chunk, also of chunks below eight", async (t) => {
  const budget = new PrefillBudget(SHARE);
  t.equal(budget.limits({ tokens: 64, chunkingChangesBits: true, decoding: 1, waiting: 1 }).quantum, 64);
  t.equal(budget.limits({ tokens: 5, chunkingChangesBits: false, decoding: 1, waiting: 1 }).quantum, 5);
});

t.test("the fewer sequences decode, the longer the shortest chunk", async (t) => {
  const budget = new PrefillBudget(SHARE);
  const least = (decoding: number): number =>
    budget.limits({ tokens: 64, chunkingChangesBits: false, decoding, waiting: 1 }).least;
  t.same([1, 4, 8, 16, 31].map(least), [256, 64, 32, 16, 16]);
});

t.test("the more requests wait per decoding one, the more time prefill gets", async (t) => {
  const budget = new PrefillBudget(SHARE);
  budget.decoded(60);
  const milliseconds = (decoding: number, waiting: number): number =>
    Math.round(budget.limits({ tokens: 64, chunkingChangesBits: false, decoding, waiting }).milliseconds);
  t.equal(milliseconds(31, 1), 32);
  t.equal(milliseconds(31, 10), 32);
  t.equal(milliseconds(2, 30), 485);
});

t.test("measured runs are expected again; disturbed ones are ignored", async (t) => {
  const budget = new PrefillBudget(SHARE);
  const expected = (from: number, to: number, of = prompt): number =>
    budget.limits({ tokens: 64, chunkingChangesBits: false, decoding: 1, waiting: 1 }).cost(of, from, to);
  t.equal(expected(0, 64), 0);
  for (let run = 0; run < 9; run++) {
    budget.fed(prompt, 0, 64, run % 4 === 3 ? 900 : 60);
    budget.decoded(run % 4 === 3 ? 900 : 30);
  }
  t.equal(Math.round(expected(0, 64)), 60);
  t.ok(expected(0, 32) > 30 && expected(0, 32) < 60, "half of the tokens read all of the weights");
  t.ok(expected(936, 1000) > expected(900, 964), "the head, for the prompt's last token");
  t.ok(expected(900, 964) > 60, "attention to what is there already");
  t.ok(expected(900, 964) === expected(0, 64, { ...prompt, prefixLength: 900 }), "virtual tokens are there too");
  t.equal(
    Math.round(budget.limits({ tokens: 64, chunkingChangesBits: false, decoding: 1, waiting: 1 }).milliseconds),
    16,
  );
  budget.fed(prompt, 0, 4, 1);
  t.equal(Math.round(expected(0, 64)), 60, "a short chunk says little of a long one");
  t.ok(
    expected(936, 1000, { ...prompt, answers: "none" }) < expected(936, 1000),
    "what is folded ends without the head",
  );
  t.equal(expected(0, 64, scored), 0, "chunks with all their logits are another matter");
});

t.test("folding gets its share beside decoding sequences, and all of the time alone", async (t) => {
  const budget = new PrefillBudget(SHARE);
  const fold: FedPrompt = { prefixLength: 0, promptLength: 1000, answers: "none" };
  budget.decoded(60);
  t.ok(budget.mayFold(1));
  budget.folded(fold, 0, 64, 100, 1);
  // A decode run of 60 ms allows for 32.
  for (let run = 0; run < 4; run++) {
    t.equal(budget.mayFold(1), false, `after ${run} runs`);
    t.ok(budget.mayFold(0));
    budget.decoded(60);
  }
  t.ok(budget.mayFold(1));
  budget.folded(fold, 64, 128, 100, 0);
  budget.folded(fold, 64, 128, 100_000, 1);
  budget.folded(fold, 128, 192, 100, 0);
  for (let run = 0; run < 4; run++) budget.decoded(60);
  t.ok(budget.mayFold(1), "a run that was disturbed counts as it was foreseen, and what nobody waited for not at all");
  const boundless = new PrefillBudget(1);
  boundless.folded(fold, 0, 64, 100, 1);
  t.ok(boundless.mayFold(1));
});

/** Milliseconds of decode runs and of chunks. */
interface Machine {
  readonly decode: (rows: number, context: number) => number;
  readonly chunk: (context: number, tokens: number, answered: boolean) => number;
}

/** GPT-2 small on two cores. */
const FP32: Machine = {
  decode: (rows, context) => 20 + rows * (1.2 + 0.004 * context),
  chunk: (context, tokens, answered) => 14.5 + (answered ? 5.4 : 0) + tokens * (0.58 + 0.00016 * context),
};
const INT8: Machine = {
  decode: (rows, context) => 7 + rows * (0.7 + 0.004 * context),
  chunk: (context, tokens, answered) => 6 + (answered ? 1.6 : 0) + tokens * (0.21 + 0.00016 * context),
};

interface Step {
  readonly rows: number;
  readonly decode: number;
  readonly chunks: number;
  readonly tokens: readonly number[];
}

/** An engine on that machine, and what its steps were: each ends with a decode run. */
function engineOn(
  machine: Machine,
  slots: number,
  prefillShare = SHARE,
  runner = new FakeRunner(slots),
): { readonly engine: Engine; readonly steps: Step[]; readonly clock: () => number } {
  let now = 0;
  const steps: Step[] = [];
  let fed: { context: number; tokens: number; answered: boolean }[] = [];
  const cost = (): number =>
    fed.reduce((sum, { context, tokens, answered }) => sum + machine.chunk(context, tokens, answered), 0);
  const feeds = (start: number, tokens: number, answered: boolean): void => {
    fed.push({ context: start, tokens, answered });
    now += machine.chunk(start, tokens, answered);
  };
  const prefill = runner.prefill.bind(runner);
  runner.prefill = (row, start, ids, answers) => {
    feeds(start, ids.length, answers !== "none");
    return prefill(row, start, ids, answers);
  };
  const decode = runner.decode.bind(runner);
  runner.decode = (ids, positions) => {
    const milliseconds = machine.decode(
      ids.length,
      positions.reduce((sum, position) => sum + position, 0) / ids.length,
    );
    steps.push({ rows: ids.length, decode: milliseconds, chunks: cost(), tokens: fed.map(({ tokens }) => tokens) });
    fed = [];
    now += milliseconds;
    return decode(ids, positions);
  };
  const engine = new Engine({
    runner,
    maxQueue: 1000,
    prefillChunk: 64,
    prefillShare,
    observer: new CountingObserver(),
    now: () => now,
  });
  return { engine, steps, clock: () => now };
}

const longPrompt = (seed: number): EngineRequest =>
  engineRequest({ promptIds: Int32Array.from({ length: 240 }, (_, i) => (i * 7 + seed) % 96), maxNewTokens: 2 });

for (const [name, machine] of Object.entries({ FP32, INT8 })) {
  t.test(`${name}: with 31 streams and one long prompt, or ten, no step exceeds the bound`, async (t) => {
    for (const prompts of [1, 10]) {
      const { engine, steps } = engineOn(machine, 32);
      const streams = Array.from(
        { length: 31 },
        (_, i) => new Recording(engine, engineRequest({ promptIds: Int32Array.of(i, 1), maxNewTokens: 200 })),
      );
      while (steps.filter(({ rows }) => rows === 31).length < 10) await new Promise(setImmediate);
      const before = steps.length;
      const long = Array.from({ length: prompts }, (_, i) => new Recording(engine, longPrompt(i)));
      const order: number[] = [];
      await Promise.all(long.map((recording, i) => recording.ended.then(() => order.push(i))));
      t.same(
        long.map(({ ids }) => ids[0]),
        long.map((_, i) => oracle(longPrompt(i), 0)),
      );
      t.same(order, [...order.keys()], "served in turn");
      const during = steps.slice(before).filter(({ tokens }) => tokens.length > 0);
      const worst = Math.max(...during.map(({ decode, chunks }) => (decode + chunks) / decode));
      t.ok(worst <= 1.15 * BOUND, `the longest step takes ${worst.toFixed(2)} of its decode run`);
      t.ok(during.every(({ tokens }) => tokens.length === 1 && tokens[0]! <= 64));
      t.ok(during.length <= 15 * prompts, `${during.length} steps: chunks of 16 and more`);
      for (const { handle } of streams) handle.cancel("cancelled");
    }
  });
}

t.test("a lone prompt is fed in full-size chunks", async (t) => {
  const { engine, steps, clock } = engineOn(FP32, 32);
  const { ended } = new Recording(engine, longPrompt(1));
  await ended;
  t.same(steps[0]!.tokens, [64, 64, 64, 48]);
  const bounded = clock();
  const other = engineOn(FP32, 32, 1);
  await new Recording(other.engine, longPrompt(1)).ended;
  t.equal(bounded, other.clock());
});

t.test("beside few streams prompts get ahead: many short ones in a step, long chunks beside one stream", async (t) => {
  const { engine, steps } = engineOn(FP32, 32);
  const stream = new Recording(engine, engineRequest({ promptIds: Int32Array.of(1), maxNewTokens: 200 }));
  while (steps.length < 5) await new Promise(setImmediate);
  const start = steps.length;
  const short = Array.from(
    { length: 31 },
    (_, i) => new Recording(engine, engineRequest({ promptIds: Int32Array.of(1, i), maxNewTokens: 20 })),
  );
  await Promise.all(short.map(({ ended }) => ended));
  t.ok(steps[start]!.tokens.length > 10, `${steps[start]!.tokens.length} in the first step`);
  await new Recording(engine, longPrompt(1)).ended;
  t.same(steps.flatMap(({ tokens }) => tokens).slice(-4), [64, 64, 64, 48]);
  stream.handle.cancel("cancelled");
});

t.test("where chunking changes bits, cuts do not depend on time", async (t) => {
  class Device extends FakeRunner {
    override readonly chunkingChangesBits = true;
  }
  const { engine, steps } = engineOn(FP32, 32, SHARE, new Device(32));
  const streams = Array.from(
    { length: 31 },
    (_, i) => new Recording(engine, engineRequest({ promptIds: Int32Array.of(i), maxNewTokens: 100 })),
  );
  while (steps.filter(({ rows }) => rows === 31).length < 10) await new Promise(setImmediate);
  const start = steps.length;
  await new Recording(engine, longPrompt(1)).ended;
  t.same(
    steps.slice(start).flatMap(({ tokens }) => tokens),
    [64, 64, 64, 48],
  );
  for (const { handle } of streams) handle.cancel("cancelled");
});

t.test("on a randomly disturbed machine the bound holds for undisturbed steps", async (t) => {
  const random = seededRandom(5);
  const noisy: Machine = {
    decode: (rows, context) => FP32.decode(rows, context) * (random() < 0.1 ? 4 : 1),
    chunk: (context, tokens, answered) => FP32.chunk(context, tokens, answered) * (random() < 0.1 ? 4 : 1),
  };
  const { engine, steps } = engineOn(noisy, 32);
  const streams = Array.from(
    { length: 31 },
    (_, i) => new Recording(engine, engineRequest({ promptIds: Int32Array.of(i, 1), maxNewTokens: 200 })),
  );
  while (steps.filter(({ rows }) => rows === 31).length < 20) await new Promise(setImmediate);
  const start = steps.length;
  await Promise.all([0, 1, 2].map((seed) => new Recording(engine, longPrompt(seed)).ended));
  const during = steps.slice(start).filter(({ tokens }) => tokens.length > 0);
  t.ok(
    during.every(({ tokens }) => tokens.reduce((sum, length) => sum + length, 0) <= 40),
    "no step made long by a slow run before it",
  );
  for (const { handle } of streams) handle.cancel("cancelled");
});

/** Times ten and a tenth of what FP32's parts are: a decode run and each of its rows; reading the weights, and a token, of a chunk. */
interface Ratios {
  readonly decode: number;
  readonly row: number;
  readonly fixed: number;
  readonly token: number;
}

const machineOf = ({ decode, row, fixed, token }: Ratios): Machine => ({
  decode: (rows, context) => 20 * decode + row * rows * (1.2 + 0.004 * context),
  chunk: (context, tokens, answered) =>
    fixed * (14.5 + (answered ? 5.4 : 0)) + token * tokens * (0.58 + 0.00016 * context),
});

const TIMES = effort({ short: [0.1, 10], long: [0.1, 1, 10] });
/** Steps after which the share holds on any machine, and until the first stream ends. */
const [LEARNED, LAST] = [60, 245];
/** What a step may take of its decode run on average: with prefill-budget.ts's tolerance. */
const ON_AVERAGE = 1.15 * BOUND;

/** Steps with 31 streams beside which one long prompt follows another. */
async function crowdedSteps(machine: Machine): Promise<readonly Step[]> {
  const { engine, steps } = engineOn(machine, 32);
  const stream = (i: number): EngineRequest =>
    engineRequest({ promptIds: Int32Array.of(i, 1), maxNewTokens: LAST + 5 });
  const all = Array.from({ length: 31 }, (_, i) => new Recording(engine, stream(i)));
  for (let seed = 0; seed < 100; seed++) all.push(new Recording(engine, longPrompt(seed)));
  while (steps.length < LAST) await new Promise(setImmediate);
  for (const { handle } of all) handle.cancel("cancelled");
  return steps.slice(LEARNED, LAST);
}

const total = (steps: readonly Step[], part: "decode" | "chunks"): number =>
  steps.reduce((sum, step) => sum + step[part], 0);

for (const decode of [0.1, 1, 10]) {
  t.test(`a decode run x${decode}: the share holds on average, whatever the other ratios`, async (t) => {
    for (const row of TIMES) {
      for (const fixed of TIMES) {
        for (const token of TIMES) {
          const steps = await crowdedSteps(machineOf({ decode, row, fixed, token }));
          // One chunk may still have to be made up for.
          const owed = Math.max(...steps.map(({ chunks }) => chunks));
          const taken = 1 + (total(steps, "chunks") - owed) / total(steps, "decode");
          const machine = `rows x${row}, fixed x${fixed}, tokens x${token}`;
          t.ok(taken <= ON_AVERAGE, `${machine}: ${taken.toFixed(2)} of the decode runs`);
          t.ok(owed > 0, `${machine}: prompts get on`);
        }
      }
    }
  });
}

t.test("on the machines of the initial ratios, learning costs prompts nothing", async (t) => {
  // What ten prompts beside so many streams took, in ms, with the first ratios alone.
  for (const [name, machine, before] of [
    ["FP32", FP32, { 31: 8508, 17: 10_628, 8: 5168 }],
    ["INT8", INT8, { 31: 2834, 17: 3748, 8: 2197 }],
  ] as const) {
    for (const [streams, milliseconds] of Object.entries(before)) {
      const { engine, steps, clock } = engineOn(machine, 32);
      const others = Array.from(
        { length: Number(streams) },
        (_, i) => new Recording(engine, engineRequest({ promptIds: Int32Array.of(i, 1), maxNewTokens: 240 })),
      );
      while (steps.length < 10) await new Promise(setImmediate);
      const start = clock();
      await Promise.all(Array.from({ length: 10 }, (_, i) => new Recording(engine, longPrompt(i)).ended));
      const now = clock() - start;
      t.ok(Math.round(now) <= milliseconds, `${name} beside ${streams}: ${now.toFixed(0)}`);
      for (const { handle } of others) handle.cancel("cancelled");
    }
  }
});
