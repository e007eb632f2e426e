import t from "tap";
import { Engine } from "../../src/engine/engine.ts";
import type { EngineSnapshot } from "../../src/observability/engine-observer.ts";
import { FakeRunner, fakePrefix } from "../support/fake-runner.ts";
import { engineRequest } from "../support/model.ts";
import { CountingObserver, Recording } from "../support/recording.ts";

t.test("a snapshot tells who runs, how far they are, and who waits", async (t) => {
  const runner = new FakeRunner(3);
  const shares = { of: (tenant: string) => ({ weight: tenant === "ann" ? 2 : 1, maxRunning: null, maxQueued: null }) };
  const engine = new Engine({ runner, maxQueue: 10, prefillChunk: 2, observer: new CountingObserver(), shares });
  t.same(engine.snapshot(), { rows: [], tenants: [] });
  const ask = (tenant: string, more: object = {}) =>
    new Recording(engine, engineRequest({ tenant, promptIds: Int32Array.of(1, 2, 3), maxNewTokens: 4, ...more }));
  const asked = [
    ask("ann", { prefix: fakePrefix(1, 5), prefixId: "ann/intent", n: 2 }),
    ask("bob"),
    ask("bob"),
    ask("eve"),
  ];
  const waiting = engine.snapshot();
  t.same(waiting.rows, []);
  t.same(engine.prefixesInUse(), { running: [], waiting: ["ann/intent"] });
  t.match(waiting.tenants, [
    { tenant: "ann", weight: 2, rows: 0, waiting: 1, oldestMs: Number },
    { tenant: "bob", weight: 1, rows: 0, waiting: 2, oldestMs: Number },
    { tenant: "eve", weight: 1, rows: 0, waiting: 1, oldestMs: Number },
  ]);

  const seen: EngineSnapshot[] = [];
  const counted = new Set<string>();
  runner.during = () => {
    seen.push(engine.snapshot());
    const { running, runningRequests } = engine.stats();
    counted.add(`${runningRequests} with ${running} rows, ${engine.prefixesInUse().running.join()}`);
  };
  await Promise.all(asked.map(({ ended }) => ended));
  for (const { rows, tenants } of seen) {
    t.ok(rows.length <= 3, "no more rows than slots");
    t.equal(
      rows.length,
      tenants.reduce((sum, tenant) => sum + tenant.rows, 0),
    );
    t.ok(rows.every(({ tokens, of, ageMs }) => tokens >= 0 && tokens <= of && ageMs >= 0));
  }
  t.ok(counted.has("1 with 2 rows, ann/intent"), "a request of two choices is one request");
  const anns = seen.map(({ rows }) => rows.filter(({ tenant }) => tenant === "ann"));
  const first = anns.find((rows) => rows.length > 0)!;
  t.match(
    first,
    Array(2).fill({ prefixId: "ann/intent", phase: "prefill", tokens: 0, of: 3 }),
    "a row for each choice",
  );
  t.ok(
    anns.some((rows) => rows.some(({ phase, tokens }) => phase === "prefill" && tokens === 2)),
    "half its prompt",
  );
  t.same(
    [...new Set(anns.flat().flatMap(({ phase, tokens, of }) => (phase === "decode" ? [`${tokens} of ${of}`] : [])))],
    ["1 of 4", "2 of 4", "3 of 4"],
    "the last token ends it",
  );
  t.ok(
    seen.some(({ tenants }) =>
      tenants.some(({ tenant, rows, waiting: left }) => tenant === "bob" && rows + left === 2),
    ),
  );
  t.match(
    seen.flatMap(({ rows }) => rows.filter(({ tenant }) => tenant === "bob"))[0],
    { prefixId: null },
    "the bare base model",
  );
  t.same(engine.snapshot(), { rows: [], tenants: [] });
});
