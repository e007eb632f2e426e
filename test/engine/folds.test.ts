/** Soft and hard prompts that are folded beside sequences and prompts, on a machine whose time is computed. */
import { setImmediate as turn } from "node:timers/promises";
import t from "tap";
import { Engine, type EngineOptions } from "../../src/engine/engine.ts";
import type { TenantShare } from "../../src/engine/scheduling/fair-share.ts";
import { PrefixdError } from "../../src/errors.ts";
import { foldLength, type FoldInput } from "../../src/kv.ts";
import { FAKE_SHAPE, FakeRunner, foldOf, oracle } from "../support/fake-runner.ts";
import { engineRequest } from "../support/model.ts";
import { CountingObserver, idle, Recording } from "../support/recording.ts";

t.setTimeout(60_000);

const SHARE = 0.4;
/** Milliseconds of a run, of which reading the weights takes most. */
const DECODE = 20;
const chunk = (tokens: number): number => 15 + 0.6 * tokens;

interface Machine {
  readonly engine: Engine;
  readonly runner: FakeRunner;
  readonly observer: CountingObserver;
  /** What ran, in order, and how long. */
  readonly runs: {
    readonly phase: "decode" | "prompt" | "fold";
    readonly tokens: number;
    readonly milliseconds: number;
  }[];
}

function machine(slots: number, options: Partial<EngineOptions> = {}, runner = new FakeRunner(slots)): Machine {
  const observer = new CountingObserver();
  let now = 0;
  const runs: Machine["runs"] = [];
  const ran = (phase: "decode" | "prompt" | "fold", tokens: number, milliseconds: number): void => {
    now += milliseconds;
    runs.push({ phase, tokens, milliseconds });
  };
  const { decode, prefill, fold } = {
    decode: runner.decode.bind(runner),
    prefill: runner.prefill.bind(runner),
    fold: runner.fold.bind(runner),
  };
  runner.decode = (ids, positions) => (ran("decode", ids.length, DECODE), decode(ids, positions));
  runner.prefill = (row, start, ids, answers) => (
    ran("prompt", ids.length, chunk(ids.length)), prefill(row, start, ids, answers)
  );
  runner.fold = (input, from, to) => (ran("fold", to - from, chunk(to - from)), fold(input, from, to));
  return {
    engine: new Engine({
      runner,
      maxQueue: 1000,
      prefillChunk: 32,
      prefillShare: SHARE,
      observer,
      now: () => now,
      ...options,
    }),
    runner,
    observer,
    runs,
  };
}

const hard = (length: number, seed = 1): FoldInput => ({
  kind: "tokens",
  ids: Int32Array.from({ length }, (_, at) => (at * 7 + seed) % 90),
});
const soft = (length: number): FoldInput => ({
  kind: "embeddings",
  length,
  data: new Float32Array(length * FAKE_SHAPE.width).fill(0.5),
});
const stream = (tenant: string, maxNewTokens: number, seed = 1): ReturnType<typeof engineRequest> =>
  engineRequest({ tenant, promptIds: Int32Array.of(seed, 2), maxNewTokens });
const spent = (runs: Machine["runs"], phase: string): number =>
  runs.filter((run) => run.phase === phase).reduce((sum, { milliseconds }) => sum + milliseconds, 0);

t.test("eight tenants that fold without pause leave a stream its share of time", async (t) => {
  for (const input of [hard(200), soft(200)]) {
    const { engine, runner, runs } = machine(4);
    const victim = new Recording(engine, stream("victim", 240));
    while (victim.tokens.length < 5) await turn();
    const start = runs.length;
    let folded = 0;
    const folders = Array.from({ length: 8 }, async (_, i) => {
      while (victim.reasons[0] === null) {
        t.same(await engine.fold(input, { tenant: `folder-${i % 3}` }), foldOf(input));
        folded++;
      }
    });
    await victim.ended;
    const during = runs.slice(start);
    const part = spent(during, "decode") / (spent(during, "decode") + spent(during, "fold"));
    t.ok(part >= 0.97 * (1 - SHARE), `${(100 * part).toFixed(0)} % of the time was the stream's`);
    t.ok(part <= 1.1 * (1 - SHARE), "nor do the folds wait for longer than they must");
    t.ok(
      during.every(({ phase, tokens }) => phase !== "fold" || tokens <= 32),
      "in chunks",
    );
    t.same(victim.ids, [oracle(stream("victim", 240), 0)]);
    await Promise.all(folders);
    t.ok(folded > 8, `${folded} folded`);
    t.same(runner.misuses, []);
  }
});

t.test("chunks are shorter beside many sequences, and full-size when nothing decodes", async (t) => {
  const { engine, runs } = machine(32, { prefillChunk: 64 });
  await engine.fold(hard(200), { tenant: "a" });
  t.same(
    runs.map(({ tokens }) => tokens),
    [64, 64, 64, 8],
  );
  const streams = Array.from({ length: 31 }, (_, i) => new Recording(engine, stream("b", 100, i)));
  while (streams[30]!.tokens.length < 3) await turn();
  const start = runs.length;
  await engine.fold(hard(200), { tenant: "a" });
  const folds = runs.slice(start).filter(({ phase }) => phase === "fold");
  t.ok(
    folds.every(({ tokens }) => tokens <= 24),
    `${folds.map(({ tokens }) => tokens).join(", ")}`,
  );
  for (const { handle } of streams) handle.cancel("cancelled");
});

t.test("folds are charged, and share turns with prompts by their tenants' counters", async (t) => {
  // Whoever gets a row gives it back at once, so that only prompts and folds are counted.
  const { engine, runs } = machine(1, { prefillShare: 1 });
  const order: string[] = [];
  const work: Promise<unknown>[] = [];
  for (let i = 0; i < 20; i++) {
    work.push(
      new Recording(
        engine,
        engineRequest({ tenant: "prompts", promptIds: new Int32Array(64), maxNewTokens: 0 }),
      ).ended.then(() => order.push("prompt")),
    );
    work.push(engine.fold(hard(64, i), { tenant: "folds" }).then(() => order.push("fold")));
    work.push(engine.fold(hard(64, i), { tenant: "other folds" }).then(() => order.push("other")));
  }
  await Promise.all(work);
  for (const taken of [12, 30, 45]) {
    const first = order.slice(0, taken);
    for (const kind of ["prompt", "fold", "other"])
      t.ok(Math.abs(first.filter((one) => one === kind).length - taken / 3) <= 2, `${kind} among the first ${taken}`);
  }
  t.equal(
    runs.reduce((sum, { tokens }) => sum + tokens, 0),
    60 * 64,
  );

  // The same tenant's fold and prompts: neither waits for all of the other.
  const own = machine(1, { prefillShare: 1, prefillChunk: 16 });
  const fold = own.engine.fold(hard(160), { tenant: "one" });
  const prompts = Array.from(
    { length: 10 },
    () =>
      new Recording(own.engine, engineRequest({ tenant: "one", promptIds: new Int32Array(16), maxNewTokens: 0 })).ended,
  );
  await Promise.all([fold, ...prompts]);
  t.same(
    own.runs.map(({ phase }) => phase),
    Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? "fold" : "prompt")),
  );
});

t.test("a tenant that has folded much waits behind others with its requests, by weight", async (t) => {
  const shares = new Map<string, TenantShare>([["heavy", { weight: 4, maxRunning: null, maxQueued: null }]]);
  const { engine } = machine(1, {
    shares: { of: (tenant) => shares.get(tenant) ?? { weight: 1, maxRunning: null, maxQueued: null } },
  });
  const blocker = new Recording(engine, stream("blocker", 60));
  while (!blocker.started) await turn();
  const order: string[] = [];
  const waiting = ["light", "heavy", "fresh"].map((tenant) => {
    const recording = new Recording(engine, stream(tenant, 2));
    return recording.ended.then(() => order.push(tenant));
  });
  await Promise.all(["light", "heavy"].map((tenant) => engine.fold(hard(120), { tenant })));
  t.notOk(blocker.reasons[0], "folds need no row");
  await Promise.all(waiting);
  t.same(order, ["fresh", "heavy", "light"]);
});

t.test("a fold whose tenant must wait does not hold up those behind it", async (t) => {
  const shares = new Map<string, TenantShare>([["slight", { weight: 0.001, maxRunning: null, maxQueued: null }]]);
  const { engine, runs } = machine(1, {
    prefillShare: 1,
    shares: { of: (tenant) => shares.get(tenant) ?? { weight: 1, maxRunning: null, maxQueued: null } },
  });
  const slight = engine.fold(hard(250), { tenant: "slight" });
  while (runs.length < 1) await turn();
  // After its first chunk everybody else comes before it.
  const prompts = Array.from(
    { length: 100 },
    () => new Recording(engine, engineRequest({ tenant: "prompts", promptIds: new Int32Array(32), maxNewTokens: 0 })),
  );
  await engine.fold(hard(32), { tenant: "ann" });
  t.ok(prompts.filter(({ reasons }) => reasons[0] !== null).length < 20, "ann's turn counts for the one before her");
  await slight;
});

t.test("limits on sequences and queue places do not apply to folds", async (t) => {
  const { engine } = machine(1, { maxQueue: 1, shares: { of: () => ({ weight: 1, maxRunning: 1, maxQueued: 1 }) } });
  const running = new Recording(engine, stream("a", 40));
  while (!running.started) await turn();
  const waiting = new Recording(engine, stream("a", 2, 3));
  t.throws(() => new Recording(engine, stream("a", 2)), { code: "user_queue_full" });
  await Promise.all([1, 2, 3].map((seed) => engine.fold(hard(20, seed), { tenant: "a" })));
  t.match(engine.stats(), { queued: 1, running: 1, folds: 0 });
  running.handle.cancel("cancelled");
  await waiting.ended;
});

t.test("a fold that is abandoned, removed or overdue stops; the next begins afresh", async (t) => {
  const { engine, runner, runs } = machine(1, { queueTimeoutMs: 60_000 });
  const client = new AbortController();
  const left = engine.fold(hard(200), { tenant: "a", signal: client.signal });
  const behind = engine.fold(hard(100, 5), { tenant: "a" });
  runner.during = () => {
    if (runs.length === 2) client.abort();
  };
  await t.rejects(left, { code: "invalid_request", message: /aborted before/ });
  t.same(await behind, foldOf(hard(100, 5)));
  t.same(
    runs.map(({ tokens }) => tokens),
    [32, 32, 32, 32, 32, 4],
  );

  await t.rejects(engine.fold(hard(3), { tenant: "a", signal: client.signal }), { code: "invalid_request" });
  const late = new AbortController();
  runner.during = (method) => {
    if (method === "read") late.abort();
  };
  await t.rejects(engine.fold(hard(3), { tenant: "a", signal: late.signal }), { code: "invalid_request" });
  t.same(await engine.fold(hard(4), { tenant: "a" }), foldOf(hard(4)), "behind one given up while it was read");
  const error = new PrefixdError("removed", "The user was removed.");
  const [removed, other] = [engine.fold(hard(200), { tenant: "ann" }), engine.fold(hard(10), { tenant: "bob" })];
  runner.during = () => engine.endFolds(error, "ann");
  await t.rejects(removed, error);
  t.same(await other, foldOf(hard(10)));
  runner.during = null;
  t.match(await idle(engine), { folds: 0 });
  t.same(runner.misuses, []);

  const impatient = machine(1, { queueTimeoutMs: 0 });
  const [first, second] = [
    impatient.engine.fold(hard(200), { tenant: "a" }),
    impatient.engine.fold(hard(200), { tenant: "a" }),
  ];
  const outcomes = await Promise.allSettled([first, second]);
  t.ok(
    outcomes.some(
      (outcome) => outcome.status === "rejected" && (outcome.reason as PrefixdError).code === "queue_timeout",
    ),
  );
});

t.test("a wipe spares a fold in progress; its end leaves nothing", async (t) => {
  const { engine, runner, runs } = machine(2);
  const wiped: [number, number][] = [];
  runner.wipe = (row, from, to) => void (row === runner.slots && wiped.push([from, to]));
  await engine.fold(hard(250), { tenant: "a" });
  const before = runs.length;
  const half = engine.fold(hard(200), { tenant: "a" });
  while (runs.length < before + 2) await turn();
  await engine.wipeFreed();
  t.same(
    wiped.map(([from, to]) => [from > 0 && from < 200, to]),
    [[true, 250]],
  );
  t.same(await half, foldOf(hard(200)));
  await engine.wipeFreed();
  t.equal(wiped.at(-1)![0], 0);
});

t.test("where chunking changes bits, folds are cut at multiples of the chunk, as prompts are", async (t) => {
  class Device extends FakeRunner {
    override readonly chunkingChangesBits = true;
  }
  const { engine, runs } = machine(32, { prefillChunk: 64 }, new Device(32));
  const streams = Array.from({ length: 31 }, (_, i) => new Recording(engine, stream("b", 100, i)));
  while (streams[30]!.tokens.length < 3) await turn();
  await engine.fold(hard(200), { tenant: "a" });
  t.same(
    runs.filter(({ phase }) => phase === "fold").map(({ tokens }) => tokens),
    [64, 64, 64, 8],
  );
  for (const { handle } of streams) handle.cancel("cancelled");
});

t.test("the observer tells fold steps apart", async (t) => {
  const { engine, observer } = machine(1);
  await engine.fold(hard(40), { tenant: "a" });
  t.same(observer.steps, [
    { phase: "fold", rows: 1, tokens: 32 },
    { phase: "fold", rows: 1, tokens: foldLength(hard(40)) - 32 },
  ]);
});
