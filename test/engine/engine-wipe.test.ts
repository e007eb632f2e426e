/** What ended sequences left in the KV cache is overwritten, and nobody who lives notices. */
import { setImmediate as turn } from "node:timers/promises";
import t from "tap";
import { Engine } from "../../src/engine/engine.ts";
import type { KvTensor } from "../../src/kv.ts";
import { FakeRunner, fakePrefix, oracle } from "../support/fake-runner.ts";
import { engineRequest, goldenDir, isWiped, openTestModel, seededRandom, submit } from "../support/model.ts";
import { CountingObserver, idle, Recording } from "../support/recording.ts";

t.setTimeout(30_000);

function setup(
  slots: number,
  mayEmit?: () => boolean,
): { engine: Engine; runner: FakeRunner; observer: CountingObserver } {
  const runner = new FakeRunner(slots);
  for (let row = 0; row < slots; row++) runner.wipe(row, 0, runner.shape.positions);
  const observer = new CountingObserver();
  return {
    engine: new Engine({ runner, maxQueue: 100, prefillChunk: 4, observer, ...(mayEmit && { mayEmit }) }),
    runner,
    observer,
  };
}

const request = (seed: number, length: number, maxNewTokens: number) =>
  engineRequest({
    promptIds: Int32Array.from({ length: 9 }, (_, i) => (i * seed) % 90),
    prefix: fakePrefix(seed, length),
    maxNewTokens,
  });

const used = (runner: FakeRunner, row: number): number => runner.cells(row).filter((cell) => cell !== 0).length;

t.test("an idle engine zeroes every position, including those of sequences long gone", async (t) => {
  const { engine, runner } = setup(3);
  for (const length of [40, 5, 20])
    await Promise.all([1, 2, 3].map((seed) => new Recording(engine, request(seed, length, 6)).ended));
  await engine.fold({ kind: "tokens", ids: Int32Array.of(1, 2, 3) }, { tenant: "test" });
  await idle(engine);
  t.ok(used(runner, 0) > 40, "there is something to wipe");
  await engine.wipeFreed();
  t.same(
    [0, 1, 2].map((row) => used(runner, row)),
    [0, 0, 0],
  );
  t.same([runner.foldingRowWipes, runner.bufferWipes], [1, 1]);
  await engine.wipeFreed();
  t.equal(runner.foldingRowWipes, 1, "what is clean is not wiped again");
  t.same(runner.misuses, []);
});

t.test("under random load no cell of a removed sequence remains, and other tokens do not change", async (t) => {
  const random = seededRandom(11);
  for (let round = 0; round < 30; round++) {
    const { engine, runner } = setup(4);
    const others = Array.from({ length: 8 }, (_, i) =>
      request(i + 2, 1 + Math.floor(random() * 30), 5 + Math.floor(random() * 40)),
    );
    const recordings = others.map((other) => new Recording(engine, other));
    const victim = { ...request(1, 50, 198), n: round % 2 === 0 ? 1 : 2 };
    const target = new Recording(engine, victim);
    const stopAt = Math.floor(random() * 20);
    while (target.tokens.length < stopAt) await turn();
    target.handle.cancel("removed");
    await engine.wipeFreed();
    const mine = cellsOf(victim.prefix!);
    for (let row = 0; row < 4; row++)
      t.notOk(
        runner.cells(row).some((cell) => mine.has(cell)),
        `row ${row}`,
      );
    await Promise.all(recordings.map(({ ended }) => ended));
    for (const [i, recording] of recordings.entries()) t.same(recording.ids[0], oracle(others[i]!, 0));
    t.same(runner.misuses, []);
  }
});

t.test("a wipe ends within a bounded number of steps while sequences come and go", async (t) => {
  const { engine, runner, observer } = setup(4);
  let stop = false;
  const churn = [1, 2, 3, 4].map(async (seed) => {
    while (!stop) await new Recording(engine, request(seed, 60, seed)).ended;
  });
  for (let i = 0; i < 20; i++) {
    for (let wait = 0; wait < 10; wait++) await turn();
    const before = observer.steps.filter(({ phase }) => phase === "decode").length;
    await engine.wipeFreed();
    t.ok(observer.steps.filter(({ phase }) => phase === "decode").length - before <= 8);
  }
  stop = true;
  await Promise.all(churn);
  t.same(runner.misuses, []);
});

t.test("the real model's rows are zeroed, and a running sequence keeps every bit", async (t) => {
  const model = await openTestModel(goldenDir("gelu-new-f32"), { slots: 4, prefillChunk: 8 });
  t.teardown(() => model.close());
  const random = seededRandom(5);
  const { shape } = model.runner;
  const prefix = (length: number): KvTensor => ({
    length,
    data: Float32Array.from({ length: shape.layers * 2 * shape.heads * length * shape.headDim }, () => random() - 0.5),
  });
  const survivor = engineRequest({
    promptIds: Int32Array.of(3, 1, 4),
    prefix: prefix(4),
    maxNewTokens: 40,
    topLogprobs: 3,
  });
  const [alone] = await submit(model.engine, survivor).done;
  const victims = [30, 9, 17].map((length) =>
    submit(model.engine, engineRequest({ promptIds: Int32Array.of(2, 7), prefix: prefix(length), maxNewTokens: 20 })),
  );
  let seen = 0;
  let wiped: Promise<void> | undefined;
  const running = submit(model.engine, survivor, () => {
    if (++seen !== 10) return;
    for (const { handle } of victims) handle.cancel("removed");
    wiped = model.engine.wipeFreed();
  });
  t.same((await running.done)[0], alone);
  await wiped;
  await model.engine.wipeFreed();
  for (let row = 0; row <= 4; row++) t.ok(await isWiped(model.runner, row), `row ${row}`);
  t.same((await submit(model.engine, survivor).done)[0], alone, "a wiped row serves as well as a new one");
});

t.test("without a lease nothing is admitted, and running requests end at that token", async (t) => {
  let may = true;
  const { engine, runner } = setup(3, () => may);
  const [a, b, queued] = [
    new Recording(engine, request(1, 3, 50)),
    new Recording(engine, request(2, 3, 50)),
    new Recording(engine, { ...request(3, 3, 50), n: 3 }),
  ];
  while (b.tokens.length < 5) await turn();
  runner.during = (method): void => void (may = method !== "decode" && may);
  const before = a.tokens.length;
  await Promise.all([a.ended, b.ended, queued.ended]);
  for (const { error } of [a, b, queued]) t.match(error, { code: "store_unavailable", retryAfter: 2 });
  t.equal(a.tokens.length, before, "not the token of the step that ran");
  t.throws(() => new Recording(engine, request(4, 3, 5)), { code: "store_unavailable" });
  runner.during = null;
  may = true;
  const again = new Recording(engine, request(4, 3, 5));
  await again.ended;
  t.same(again.ids[0], oracle(request(4, 3, 5), 0));
});

/** What a runner of its own writes for a prefix. */
function cellsOf(prefix: KvTensor): Set<number> {
  const other = new FakeRunner(1);
  other.loadPrefix(0, prefix);
  return new Set(other.cells(0).slice(0, prefix.length));
}
