import { spawnSync } from "node:child_process";
import { setImmediate as turn, setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import t from "tap";
import { Engine, type EngineOptions } from "../../src/engine/engine.ts";
import { firstFit } from "../support/plans.ts";
import { PrefixdError } from "../../src/errors.ts";
import { FakeRunner, fakePrefix, foldOf, NAN_TOKEN, oracle } from "../support/fake-runner.ts";
import { engineRequest } from "../support/model.ts";
import { CountingObserver, idle, Recording } from "../support/recording.ts";
import { SOURCES } from "../support/program.ts";

t.setTimeout(60_000);

function setup(given: Partial<EngineOptions> & { slots?: number } = {}): {
  engine: Engine;
  runner: FakeRunner;
  observer: CountingObserver;
} {
  const runner = new FakeRunner(given.slots ?? 3);
  const observer = new CountingObserver();
  return { engine: new Engine({ runner, maxQueue: 100, prefillChunk: 4, observer, ...given }), runner, observer };
}

const request = (
  seed: number,
  given: Partial<Parameters<typeof engineRequest>[0]> = {},
): ReturnType<typeof engineRequest> =>
  engineRequest({
    promptIds: Int32Array.of(seed, seed + 1),
    prefix: fakePrefix(seed, 1 + seed),
    maxNewTokens: 12,
    ...given,
  });

t.test("a failed prefill fails only its request", async (t) => {
  for (const chunk of [1, 2, 3]) {
    const { engine, runner, observer } = setup();
    const first = new Recording(engine, request(1));
    const victim = new Recording(engine, request(2, { promptIds: Int32Array.from({ length: 11 }, (_, i) => i), n: 2 }));
    const last = new Recording(engine, request(3));
    const [method, nth] = chunk === 3 ? (["prefill last", 2] as const) : (["prefill none", chunk] as const);
    runner.failOn(method, nth);
    await Promise.all([first.ended, victim.ended, last.ended]);
    t.match(victim.error, { code: "model_failed", cause: { message: `injected failure of ${method}` } });
    t.same([first.ids, last.ids], [[oracle(request(1), 0)], [oracle(request(3), 0)]]);
    t.same(observer.outcomes, { length: 2, error: 2 });
    t.match(await idle(engine), { queued: 0, running: 0 });
    t.same([runner.misuses, victim.violations], [[], []]);
  }
});

t.test("so does a failed prefix load or fork", async (t) => {
  for (const method of ["loadPrefix", "copyRow"] as const) {
    const { engine, runner, observer } = setup();
    const first = new Recording(engine, request(1));
    const victim = new Recording(engine, request(2, { n: 2 }));
    const last = new Recording(engine, request(3));
    runner.failOn(method, method === "loadPrefix" ? 2 : 1);
    await Promise.all([first.ended, victim.ended, last.ended]);
    t.match(victim.error, { code: "model_failed" });
    t.same([first.ids, last.ids], [[oracle(request(1), 0)], [oracle(request(3), 0)]], method);
    t.equal(observer.counts.firstToken, 2, "there was no first token");
    t.match(await idle(engine), { queued: 0, running: 0 });
    t.same(runner.misuses, []);
  }
});

t.test("a PrefixdError of the runner reaches the listener unchanged", async (t) => {
  const { engine, runner } = setup();
  const error = new PrefixdError("model_failed", "The device is gone.");
  runner.failOn("prefill last", 1, error);
  const victim = new Recording(engine, request(1));
  await victim.ended;
  t.equal(victim.error, error);
});

t.test("a failed decode step fails the requests in it; waiting ones are served", async (t) => {
  const { engine, runner, observer } = setup();
  const running = [1, 2, 3].map((seed) => new Recording(engine, request(seed)));
  const waiting = [4, 5].map((seed) => new Recording(engine, request(seed)));
  runner.failOn("decode", 4);
  await Promise.all([...running, ...waiting].map((recording) => recording.ended));
  for (const recording of running)
    t.match(recording.error, { code: "model_failed", cause: { message: "injected failure of decode" } });
  waiting.forEach((recording, i) => t.same(recording.ids, [oracle(request(4 + i), 0)]));
  t.same(observer.outcomes, { error: 3, length: 2 });
  t.match(await idle(engine), { queued: 0, running: 0 });
  t.same(runner.misuses, []);
});

t.test("a failed row move fails every request that holds rows, and the engine goes on", async (t) => {
  const { engine, runner } = setup();
  // The first one's row is the gap into which the last row moves.
  const running = [
    new Recording(engine, request(1, { maxNewTokens: 3 })),
    new Recording(engine, request(2)),
    new Recording(engine, request(3)),
  ];
  runner.failOn("copyRow", 1);
  await Promise.all(running.map((recording) => recording.ended));
  t.equal(running[0]!.error, null);
  for (const recording of running.slice(1)) t.match(recording.error, { code: "model_failed" });
  const next = new Recording(engine, request(4));
  await next.ended;
  t.same(next.ids, [oracle(request(4), 0)]);
  t.match(await idle(engine), { queued: 0, running: 0 });
});

t.test("non-finite logits are the prefix's fault if it has a value that half precision may not bear", async (t) => {
  const promptIds = Int32Array.of(1, NAN_TOKEN);
  for (const [value, code] of [
    [15, "model_failed"],
    [-300, "prefix_overflows"],
    [1e4, "prefix_overflows"],
    [3e38, "prefix_overflows"],
  ] as const) {
    const prefix = fakePrefix(1, 2);
    prefix.data.fill(0);
    prefix.data[5] = value;
    const recording = new Recording(setup().engine, request(1, { promptIds, prefix }));
    await recording.ended;
    t.match(recording.error, { code }, `${value}`);
  }
});

t.test("non-finite logits fail only their request, at the first token and later", async (t) => {
  const { engine, runner, observer } = setup({ slots: 4 });
  const first = new Recording(engine, request(1));
  const atOnce = new Recording(engine, request(2, { promptIds: Int32Array.of(1, NAN_TOKEN) }));
  const last = new Recording(engine, request(3));
  await Promise.all([first.ended, atOnce.ended, last.ended]);
  t.match(atOnce.error, { code: "model_failed" });
  t.same([atOnce.ids, first.ids, last.ids], [[[]], [oracle(request(1), 0)], [oracle(request(3), 0)]]);
  t.same(observer.outcomes, { length: 2, error: 1 });
  t.equal(observer.counts.firstToken, 2);

  runner.nanFrom = 30;
  const later = request(8, { maxNewTokens: 40 });
  const [short, victim] = [new Recording(engine, request(4)), new Recording(engine, later)];
  await Promise.all([short.ended, victim.ended]);
  t.match(victim.error, { code: "model_failed" });
  t.same(
    [short.ids, victim.ids],
    [[oracle(request(4), 0)], [oracle(later, 0).slice(0, 30 - 9 - 2)]],
    "what came before was right",
  );
  t.match(await idle(engine), { queued: 0, running: 0 });
  t.same([runner.misuses, victim.violations], [[], []]);
});

t.test("a listener that throws ends only its own request", async (t) => {
  const boom = (): never => {
    throw new Error("boom");
  };
  const internal = { code: "internal", cause: { message: "boom" } };
  for (const where of ["onStart", "onToken", "onFinish"] as const) {
    const { engine, runner, observer } = setup({ slots: 6 });
    const first = new Recording(engine, request(1));
    const victim = new Recording(engine, request(2, { n: 2, maxNewTokens: 4 }), { [where]: boom });
    const last = new Recording(engine, request(3));
    await Promise.all([first.ended, victim.ended, last.ended]);
    t.match(victim.error, internal, where);
    t.same([first.ids, last.ids], [[oracle(request(1), 0)], [oracle(request(3), 0)]]);
    t.same(observer.outcomes, where === "onFinish" ? { length: 3, error: 1 } : { length: 2, error: 2 });
    t.match(await idle(engine), { queued: 0, running: 0 });
    t.same([runner.misuses, victim.violations], [[], []]);
  }
  t.test("even from onError and the last onFinish", async (t) => {
    const { engine, runner, observer } = setup({ slots: 6 });
    runner.failOn("prefill last", 1);
    const victims = [
      new Recording(engine, request(1), { onError: boom }),
      new Recording(engine, request(2), { onFinish: boom }),
    ];
    const other = new Recording(engine, request(3));
    await Promise.all([...victims, other].map((recording) => recording.ended));
    t.equal(victims[1]!.error, null, "it has had its result: nothing comes after the last onFinish");
    t.same(other.ids, [oracle(request(3), 0)]);
    t.same(observer.outcomes, { error: 1, length: 2 });
    t.match(await idle(engine), { queued: 0, running: 0 });
    t.same(
      victims.flatMap(({ violations }) => violations),
      [],
    );
  });
});

t.test("folding runs between steps, even with all rows taken; its failure affects nothing else", async (t) => {
  const { engine, runner } = setup({ slots: 2 });
  const running = [1, 2, 3].map((seed) => new Recording(engine, request(seed, { maxNewTokens: 40 })));
  while (running[1]!.tokens.length < 2) await turn();
  t.match(engine.stats(), { running: 2, queued: 1 });
  const [tokens, embeddings] = [
    { kind: "tokens", ids: Int32Array.of(3, 1, 4) },
    { kind: "embeddings", length: 2, data: new Float32Array(8).fill(0.5) },
  ] as const;
  runner.failOn("fold", 2);
  const [one, failed, two] = await Promise.allSettled([
    engine.fold(tokens, { tenant: "test" }),
    engine.fold(tokens, { tenant: "test" }),
    engine.fold(embeddings, { tenant: "test" }),
  ]);
  t.same(one, { status: "fulfilled", value: foldOf(tokens) });
  t.match(failed, { status: "rejected", reason: { code: "model_failed" } });
  t.same(two, { status: "fulfilled", value: foldOf(embeddings) });
  t.match(engine.stats(), { running: 2 }, "nobody had to leave for it");
  await Promise.all(running.map((recording) => recording.ended));
  running.forEach((recording, i) => t.same(recording.ids, [oracle(request(i + 1, { maxNewTokens: 40 }), 0)]));
  t.same(runner.misuses, []);

  t.same(await engine.fold(tokens, { tenant: "test" }), foldOf(tokens), "an idle engine wakes for it");
});

t.test("a policy that admits nothing does not block the event loop", async (t) => {
  let open = false;
  let asked = 0;
  const { engine } = setup({
    policy(queue, freeRows, admitted) {
      asked++;
      return open ? firstFit(queue, freeRows, admitted) : null;
    },
  });
  const recording = new Recording(engine, request(1));
  await sleep(100);
  t.ok(asked >= 2 && asked < 100, `nor does it spin: asked ${asked} times in 100 ms`);
  t.equal(engine.stats().queued, 1);
  open = true;
  await recording.ended;
  t.same(recording.ids, [oracle(request(1), 0)]);
});

t.test("drain refuses new requests and lets accepted ones finish", async (t) => {
  const { engine, runner } = setup({ slots: 1 });
  const recordings = [1, 2].map((seed) => new Recording(engine, request(seed)));
  const fold = engine.fold({ kind: "tokens", ids: Int32Array.of(1) }, { tenant: "test" });
  const drained = engine.drain(60_000);
  t.throws(() => new Recording(engine, request(3)), { code: "draining", retryAfter: 1 });
  await t.rejects(engine.fold({ kind: "tokens", ids: Int32Array.of(1) }, { tenant: "test" }), { code: "draining" });
  await drained;
  recordings.forEach((recording, i) => t.same(recording.ids, [oracle(request(i + 1), 0)]));
  t.same(await fold, foldOf({ kind: "tokens", ids: Int32Array.of(1) }));
  t.match(engine.stats(), { queued: 0, running: 0 }, "when it answers, nothing holds a row");
  t.same(runner.misuses, []);
  await engine.drain(0);
  t.throws(() => new Recording(engine, request(3)), { code: "draining" }, "for good");
});

t.test("drain's deadline ends what is queued, half prefilled, running or to be folded with `draining`", async (t) => {
  const { engine, runner, observer } = setup({ slots: 3 });
  const running = [1, 2].map((seed) => new Recording(engine, request(seed, { maxNewTokens: 200 })));
  const wide = request(5, { promptIds: new Int32Array(200), n: 1, maxNewTokens: 40 });
  while (running[1]!.tokens.length < 2) await turn();
  const half = new Recording(engine, wide);
  const waiting = [3, 4].map((seed) => new Recording(engine, request(seed)));
  while (!half.started) await turn();
  // Slow enough for the deadline to come first, for many folds are ahead of the last.
  runner.during = (): void => {
    const until = performance.now() + 2;
    while (performance.now() < until);
  };
  const folds = Array.from({ length: 200 }, () =>
    engine.fold({ kind: "tokens", ids: Int32Array.of(1) }, { tenant: "test" }),
  );
  const settled = Promise.allSettled(folds);
  await engine.drain(20);
  const all = [...running, half, ...waiting];
  for (const recording of all) {
    t.match(recording.error, { code: "draining" });
    t.same(recording.violations, []);
  }
  t.same(half.ids, [[]], "it was half prefilled");
  t.match((await settled).at(-1), { status: "rejected", reason: { code: "draining" } });
  t.same(observer.outcomes, { error: 5 });
  t.match(engine.stats(), { queued: 0, running: 0 });
  t.same(runner.misuses, []);
});

t.test("an idle engine does not keep the process alive", async (t) => {
  const support = (file: string): string => new URL(`../support/${file}`, import.meta.url).href;
  const script = `
    import { FakeRunner, fakePrefix } from ${JSON.stringify(support("fake-runner.ts"))};
    import { engineRequest } from ${JSON.stringify(support("model.ts"))};
    import { CountingObserver, Recording } from ${JSON.stringify(support("recording.ts"))};
    import { Engine } from ${JSON.stringify(new URL("../../src/engine/engine.ts", import.meta.url).href)};
    const engine = new Engine({ runner: new FakeRunner(2), maxQueue: 9, prefillChunk: 4, observer: new CountingObserver() });
    const request = engineRequest({ promptIds: Int32Array.of(1), prefix: fakePrefix(1, 2), maxNewTokens: 5 });
    const recordings = [0, 1, 2].map(() => new Recording(engine, request));
    recordings[2].handle.cancel("cancelled");
    await recordings[1].ended;
    await engine.fold({ kind: "tokens", ids: Int32Array.of(1) }, { tenant: "test" });
    process.on("exit", () => console.log("done", JSON.stringify(engine.stats())));
  `;
  const cwd = fileURLToPath(new URL("../..", import.meta.url));
  const { stdout, stderr, status } = spawnSync(process.execPath, [...SOURCES, "--input-type=module", "-e", script], {
    cwd,
    encoding: "utf8",
    timeout: 30_000,
  });
  t.equal(status, 0, stderr);
  t.match(stdout, 'done {"queued":0,"folds":0,"running":0,"runningRequests":0,"slots":2,"maxQueue":9}');
});
