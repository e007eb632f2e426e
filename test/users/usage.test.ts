import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import type { UsageRow } from "../../src/users/types.ts";
import { UsageRecorder, type RequestUsage, type UsageRecorderOptions } from "../../src/users/usage.ts";
import { until } from "../support/app.ts";
import { seededRandom } from "../support/model.ts";

/** Adds up what it is given, unless it fails. */
class Sink {
  readonly totals = new Map<string, number>();
  readonly batches: number[] = [];
  fails: (rows: readonly UsageRow[]) => boolean = () => false;
  delay = 0;
  #busy = false;
  overlapped = false;

  async addUsage(rows: readonly UsageRow[]): Promise<void> {
    this.overlapped ||= this.#busy;
    this.#busy = true;
    await sleep(this.delay);
    this.#busy = false;
    if (this.fails(rows)) throw new Error("injected");
    this.batches.push(rows.length);
    for (const row of rows) {
      for (const field of [
        "requests",
        "prefixTokens",
        "promptTokens",
        "completionTokens",
        "queueSeconds",
        "runSeconds",
      ] as const) {
        const key = `${row.user} ${row.prefix} ${row.day} ${field}`;
        this.totals.set(key, (this.totals.get(key) ?? 0) + row[field]);
      }
    }
  }
}

const use = (given: Partial<RequestUsage> = {}): RequestUsage => ({
  user: "ann",
  prefix: "poem",
  requests: 1,
  prefixTokens: 10,
  promptTokens: 3,
  completionTokens: 5,
  queueSeconds: 0.25,
  runSeconds: 0.5,
  ...given,
});

function make(
  t: { teardown(fn: () => void): unknown },
  given: Partial<UsageRecorderOptions> = {},
): { sink: Sink; recorder: UsageRecorder } {
  const sink = new Sink();
  const recorder = new UsageRecorder({ sink, flushMs: 5, ...given });
  t.teardown(() => recorder.close(0));
  return { sink, recorder };
}

t.test("adds up per user, prefix and UTC day, and writes each row once", async (t) => {
  let now = Date.parse("2026-01-31T23:59:59.999Z");
  const { sink, recorder } = make(t, { now: () => now });
  recorder.record(use());
  recorder.record(use({ completionTokens: 7 }));
  recorder.record(use({ prefix: null }));
  now++;
  recorder.record(use());
  t.equal(recorder.pending, 3);
  await until(() => sink.batches.length > 0);
  t.same(sink.batches, [3]);
  await until(() => recorder.pending === 0);
  const totals = Object.fromEntries(sink.totals);
  t.match(totals, {
    "ann poem 2026-01-31 requests": 2,
    "ann poem 2026-01-31 prefixTokens": 20,
    "ann poem 2026-01-31 completionTokens": 12,
    "ann poem 2026-01-31 queueSeconds": 0.5,
    "ann null 2026-01-31 requests": 1,
    "ann poem 2026-02-01 requests": 1,
    "ann poem 2026-02-01 runSeconds": 0.5,
  });
  await sleep(20);
  t.same(sink.batches, [3], "nothing new, nothing written");
});

t.test("exact whatever fails and whenever it is flushed", async (t) => {
  for (let seed = 0; seed < 5; seed++) {
    const random = seededRandom(seed);
    const { sink, recorder } = make(t, { flushMs: 1, batchRows: 7 });
    sink.fails = () => random() < 0.4;
    const wanted = new Map<string, number>();
    for (let i = 0; i < 3000; i++) {
      const user = `u${Math.floor(random() * 9)}`;
      const prefix = random() < 0.2 ? null : `p${Math.floor(random() * 5)}`;
      const completionTokens = Math.floor(random() * 100);
      recorder.record(use({ user, prefix, completionTokens }));
      const key = `${user} ${prefix}`;
      wanted.set(key, (wanted.get(key) ?? 0) + completionTokens);
      if (random() < 0.02) void recorder.flush();
      if (random() < 0.05) await sleep(random() < 0.5 ? 0 : 2);
    }
    t.equal(await recorder.close(5000), 0);
    const day = new Date().toISOString().slice(0, 10);
    for (const [key, tokens] of wanted)
      if (sink.totals.get(`${key} ${day} completionTokens`) !== tokens) t.fail(`seed ${seed}: ${key}`);
    t.equal(
      [...sink.totals].filter(([key]) => key.endsWith("requests")).reduce((sum, [, count]) => sum + count, 0),
      3000,
    );
    t.notOk(sink.overlapped, "one call at a time");
  }
});

t.test("a store that is away is asked less and less often; nothing is lost", async (t) => {
  const errors: unknown[] = [];
  const { sink, recorder } = make(t, { onError: (error) => errors.push(error) });
  sink.fails = () => true;
  for (let i = 0; i < 100; i++) {
    recorder.record(use());
    await sleep(5);
  }
  t.ok(errors.length >= 3 && errors.length <= 12, `${errors.length} tries in half a second`);
  t.equal(recorder.pending, 1);
  sink.fails = () => false;
  t.equal(await recorder.close(), 0);
  t.equal([...sink.totals.values()][0], 100);
});

t.test("a row that cannot be written does not hold up the others", async (t) => {
  const { sink, recorder } = make(t, { flushMs: 1 });
  sink.fails = (rows) => rows.some((row) => row.user === "bad");
  recorder.record(use({ user: "bad" }));
  for (let i = 0; i < 20; i++) recorder.record(use({ user: `good-${i}` }));
  for (let left = 60; left > 0 && recorder.pending > 1; left--) await recorder.flush();
  t.equal(recorder.pending, 1);
  t.equal([...sink.totals.keys()].filter((key) => key.endsWith("requests")).length, 20);
  t.equal(await recorder.close(5), 1, "says what is lost");
});

t.test("memory is bounded: beyond that, users stay exact and prefixes are put together", async (t) => {
  const { sink, recorder } = make(t, { maxRows: 10 });
  sink.fails = () => true;
  for (let i = 0; i < 1000; i++) recorder.record(use({ user: `u${i % 3}`, prefix: `p${i}` }));
  t.equal(recorder.pending, 13);
  sink.fails = () => false;
  await recorder.close();
  const requests = [...sink.totals].filter(([key]) => key.endsWith("requests"));
  t.equal(
    requests.reduce((sum, [, count]) => sum + count, 0),
    1000,
  );
  t.equal(requests.filter(([key]) => key.includes(" * ")).length, 3);
});

t.test("a removed user is forgotten, also by a write that was under way", async (t) => {
  const { sink, recorder } = make(t, { flushMs: 60_000 });
  sink.delay = 20;
  sink.fails = () => true;
  recorder.record(use({ user: "gone" }));
  recorder.record(use({ user: "stays" }));
  const flush = recorder.flush();
  await recorder.forget("gone");
  await flush;
  t.equal(recorder.pending, 1);
  sink.fails = () => false;
  await recorder.flush();
  t.same(
    [...sink.totals.keys()].filter((key) => key.startsWith("gone")),
    [],
  );
});
