import t from "tap";
import { Engine } from "../../../src/engine/engine.ts";
import type { TenantShare } from "../../../src/engine/scheduling/fair-share.ts";
import type { EngineRequest } from "../../../src/engine/request.ts";
import { FakeRunner, oracle } from "../../support/fake-runner.ts";
import { engineRequest } from "../../support/model.ts";
import { CountingObserver, Recording } from "../../support/recording.ts";

function setup(given: { slots?: number; maxQueue?: number; queueTimeoutMs?: number; delay?: () => Promise<void> }): {
  engine: Engine;
  runner: FakeRunner;
  share: (tenant: string, share: Partial<TenantShare>) => void;
} {
  const shares = new Map<string, Partial<TenantShare>>();
  const runner = new FakeRunner(given.slots ?? 4, given.delay);
  const of = (tenant: string): TenantShare => ({ weight: 1, maxRunning: null, maxQueued: null, ...shares.get(tenant) });
  const engine = new Engine({
    runner,
    maxQueue: given.maxQueue ?? 100,
    queueTimeoutMs: given.queueTimeoutMs ?? Infinity,
    prefillChunk: 16,
    observer: new CountingObserver(),
    now: () => 0,
    shares: { of },
  });
  return { engine, runner, share: (tenant, share) => void shares.set(tenant, { ...shares.get(tenant), ...share }) };
}

const request = (tenant: string, given: Partial<EngineRequest> = {}): EngineRequest =>
  engineRequest({ tenant, promptIds: Int32Array.of(1, 2, 3), maxNewTokens: 6, ...given });

t.test("a tenant's limit on waiting requests is its own, and read for each request", async (t) => {
  const { engine, share } = setup({ slots: 1, maxQueue: 5 });
  share("a", { maxQueued: 2 });
  // It holds the only row: who comes now waits.
  const first = new Recording(engine, request("c", { maxNewTokens: 20 }));
  while (!first.started) await new Promise(setImmediate);
  const taken = [first, new Recording(engine, request("a")), new Recording(engine, request("a"))];
  t.throws(() => new Recording(engine, request("a")), {
    code: "user_queue_full",
    status: 429,
    retryAfter: 1,
    limit: { name: "user_queue", quota: 2, remaining: 0 },
  });
  taken.push(new Recording(engine, request("b")));
  share("a", { maxQueued: 3 });
  taken.push(new Recording(engine, request("a")));
  taken.push(new Recording(engine, request("b")));
  t.throws(() => new Recording(engine, request("b")), {
    code: "queue_full",
    retryAfter: 1,
    limit: { name: "queue", quota: 5 },
  });
  await Promise.all(taken.map(({ ended }) => ended));
  taken.push(new Recording(engine, request("a")));
  await taken.at(-1)!.ended;
  for (const recording of taken) t.same(recording.violations, []);
});

t.test("queue places are shared by weight, and a full queue admits a tenant with nothing in it", async (t) => {
  const { engine, share } = setup({ slots: 1, maxQueue: 6 });
  const first = new Recording(engine, request("other", { maxNewTokens: 20 }));
  while (!first.started) await new Promise(setImmediate);
  const taken = [first];
  const take = (tenant: string, times: number): void => {
    for (; times > 0; times--) {
      engine.refuseIfFull(tenant);
      taken.push(new Recording(engine, request(tenant)));
    }
  };
  const refused = (tenant: string): void => {
    t.throws(() => new Recording(engine, request(tenant)), { code: "queue_full", limit: { name: "queue", quota: 6 } });
    t.throws(() => engine.refuseIfFull(tenant), { code: "queue_full" });
  };
  take("a", 3);
  take("b", 2);
  refused("a");
  take("b", 1);
  refused("b");
  take("c", 1);
  refused("c");
  for (const tenant of ["d", "e", "f", "g", "h"]) take(tenant, 1);
  refused("i");
  await Promise.all(taken.map(({ ended }) => ended));
  share("a", { weight: 2 });
  const again = new Recording(engine, request("other", { maxNewTokens: 20 }));
  while (!again.started) await new Promise(setImmediate);
  taken.push(again);
  take("b", 1);
  take("a", 4);
  refused("a");
  take("b", 1);
  refused("b");
  await Promise.all(taken.map(({ ended }) => ended));
  for (const recording of taken) t.same(recording.violations, []);
});

t.test("a tenant never exceeds its rows, including choices and prompts in progress", async (t) => {
  const { engine, runner, share } = setup({ slots: 8 });
  share("a", { maxRunning: 3 });
  t.throws(() => new Recording(engine, request("a", { n: 4 })), { code: "invalid_parameter" });
  const held = new Map([
    ["a", 0],
    ["b", 0],
  ]);
  const most = new Map(held);
  const recordings = Array.from({ length: 40 }, (_, i) => {
    const tenant = i < 30 ? "a" : "b";
    const given = request(tenant, {
      n: 1 + (i % 3),
      promptIds: Int32Array.from({ length: 1 + (i % 40) }, (_, at) => (at * 7 + i) % 90),
      maxNewTokens: 2 + (i % 9),
    });
    const count = (by: number): void => {
      held.set(tenant, held.get(tenant)! + by);
      most.set(tenant, Math.max(most.get(tenant)!, held.get(tenant)!));
    };
    return {
      given,
      recording: new Recording(engine, given, { onStart: () => count(given.n), onFinish: () => count(-1) }),
    };
  });
  await Promise.all(recordings.map(({ recording }) => recording.ended));
  t.ok(most.get("a")! <= 3, `at most ${most.get("a")} rows of a`);
  t.ok(most.get("b")! > 3, "b is not limited");
  for (const { given, recording } of recordings)
    for (let choice = 0; choice < given.n; choice++) t.same(recording.ids[choice], oracle(given, choice));
  t.same(runner.misuses, []);
});

t.test("a request that waits too long is refused, without effect on others", async (t) => {
  const { engine } = setup({
    slots: 1,
    queueTimeoutMs: 60,
    delay: () => new Promise((resolve) => setTimeout(resolve, 2)),
  });
  // 200 steps of 2 ms and more.
  const long = request("a", { maxNewTokens: 200 });
  const first = new Recording(engine, long);
  const late = new Recording(engine, request("b"));
  await late.ended;
  t.match(late.error, { code: "queue_timeout", status: 503, retryAfter: 1 });
  t.notOk(late.started);
  await first.ended;
  t.same(first.ids, [oracle(long, 0)]);
  t.equal(engine.stats().queued, 0);
  const after = new Recording(engine, request("b"));
  await after.ended;
  t.same(after.ids, [oracle(request("b"), 0)], "one that waits for less is served");
});

t.test("a new tenant does not wait behind another's queue", async (t) => {
  const { engine } = setup({ slots: 2 });
  const order: string[] = [];
  const start = (tenant: string): Recording =>
    new Recording(engine, request(tenant, { maxNewTokens: 20 }), { onStart: () => order.push(tenant) });
  const recordings = Array.from({ length: 30 }, () => start("many"));
  await new Promise((resolve) => setTimeout(resolve, 20));
  const before = order.length;
  recordings.push(start("one"));
  await Promise.all(recordings.map(({ ended }) => ended));
  t.ok(
    order.indexOf("one") <= before + 1,
    `${order.indexOf("one")} of ${order.length}, ${before} had started when it came`,
  );
});

t.test("cancelled and failed requests leave nothing charged", async (t) => {
  const { engine, runner, share } = setup({ slots: 2 });
  share("a", { maxRunning: 1, maxQueued: 3 });
  const first = [1, 2, 3].map(() => new Recording(engine, request("a", { maxNewTokens: 200 })));
  await new Promise((resolve) => setTimeout(resolve, 10));
  for (const recording of first) recording.handle.cancel("cancelled");
  runner.failOn("prefill last", 1);
  const failing = new Recording(engine, request("a"));
  await failing.ended;
  t.equal(failing.error?.code, "model_failed");
  const last = [1, 2, 3].map(() => new Recording(engine, request("a")));
  await Promise.all(last.map(({ ended }) => ended));
  t.same(
    last.map(({ reasons }) => reasons),
    [["length"], ["length"], ["length"]],
  );
});
