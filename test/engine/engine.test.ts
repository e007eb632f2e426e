import { setImmediate as turn } from "node:timers/promises";
import t from "tap";
import { Engine, type EngineOptions } from "../../src/engine/engine.ts";
import type { EngineRequest, FinishReason } from "../../src/engine/request.ts";
import type { KvTensor } from "../../src/kv.ts";
import { FAKE_SHAPE, FakeRunner, fakePrefix, NAN_TOKEN, oracle } from "../support/fake-runner.ts";
import { engineRequest, GREEDY, seededRandom } from "../support/model.ts";
import { CountingObserver, idle, Recording } from "../support/recording.ts";

t.setTimeout(60_000);

const IDLE = { queued: 0, running: 0 };

function setup(given: Partial<EngineOptions> & { slots?: number; runner?: FakeRunner } = {}): {
  engine: Engine;
  runner: FakeRunner;
  observer: CountingObserver;
} {
  const runner = given.runner ?? new FakeRunner(given.slots ?? 4);
  const observer = new CountingObserver();
  return {
    engine: new Engine({ maxQueue: 1000, prefillChunk: 8, observer, now: () => 0, ...given, runner }),
    runner,
    observer,
  };
}

const prompt = (...ids: number[]): Int32Array => Int32Array.from(ids);
const firstIds = (request: EngineRequest): number[] => oracle(request, 0);

t.test("a request starts, gets its tokens and finishes; then everything is free", async (t) => {
  const { engine, runner, observer } = setup();
  const request = engineRequest({
    promptIds: prompt(1, 2, 3),
    prefix: fakePrefix(1, 5),
    maxNewTokens: 6,
    topLogprobs: 2,
  });
  const seen: string[] = [];
  const recording = new Recording(engine, request, {
    onStart: () => void seen.push("start"),
    onToken: (event) => {
      seen.push(`token ${event.choice} ${event.top.length}`);
      return "continue";
    },
    onFinish: (choice, reason) => void seen.push(`finish ${choice} ${reason}`),
  });
  t.same(seen, [], "nothing is called from within submit");
  t.same(engine.stats(), { queued: 1, folds: 0, running: 0, runningRequests: 0, slots: 4, maxQueue: 1000 });
  await recording.ended;
  t.same(recording.ids, [oracle(request, 0)]);
  t.same(seen, ["start", ...Array<string>(6).fill("token 0 2"), "finish 0 length"]);
  t.match(await idle(engine), IDLE);
  t.same(runner.misuses, []);
  t.same(observer.outcomes, { length: 1 });
  t.same(observer.counts, { queued: 1, firstToken: 1, interToken: 5 });
  t.same(observer.steps[0], { phase: "prefill", rows: 1, tokens: 3 }, "virtual tokens are not fed");
  t.same(
    observer.steps.slice(1),
    Array.from({ length: 5 }, () => ({ phase: "decode", rows: 1, tokens: 1 })),
    "the first token comes with the prompt",
  );
  t.ok(
    observer.seconds.every((seconds) => seconds >= 0 && seconds < 60),
    "times are in seconds",
  );
});

t.test("requests of one turn share a batch", async (t) => {
  const { engine, runner, observer } = setup({ slots: 8, prefillChunk: 64 });
  const requests = Array.from({ length: 8 }, (_, i) =>
    engineRequest({ promptIds: prompt(i, i + 1), prefix: fakePrefix(i, i + 1), maxNewTokens: 5 }),
  );
  const recordings = requests.map((request) => new Recording(engine, request));
  await Promise.all(recordings.map((recording) => recording.ended));
  recordings.forEach((recording, i) => t.same(recording.ids, [oracle(requests[i]!, 0)]));
  t.equal(observer.steps.filter(({ phase }) => phase === "decode").length, 4);
  t.ok(observer.steps.filter(({ phase }) => phase === "decode").every(({ rows }) => rows === 8));
  t.same(runner.misuses, []);
});

t.test("the choices of one prompt fork its row", async (t) => {
  const { engine, runner, observer } = setup({ slots: 6 });
  const sampling = { ...GREEDY, doSample: true, temperature: 1.5 };
  const other = engineRequest({ promptIds: prompt(9), maxNewTokens: 12 });
  const request = engineRequest({
    promptIds: Int32Array.from({ length: 19 }, (_, i) => i),
    prefix: fakePrefix(4, 3),
    n: 5,
    maxNewTokens: 8,
    sampling,
    seed: 77,
  });
  const [first, forked] = [new Recording(engine, other), new Recording(engine, request)];
  await Promise.all([first.ended, forked.ended]);
  t.same(first.ids, [oracle(other, 0)]);
  const expected = Array.from({ length: 5 }, (_, choice) => oracle(request, choice));
  t.same(forked.ids, expected);
  t.equal(new Set(expected.map(String)).size, 5, "the choices differ, or this test shows nothing");
  t.same(
    [runner.calls["prefill none"], runner.calls["prefill last"]],
    [2, 2],
    "one prefill of 1 token, three chunks of 19 of which the last is answered: the prompt is fed once",
  );
  t.equal(observer.counts.firstToken, 2, "once per request");
  t.same(observer.outcomes, { length: 6 });
});

t.test("EOS ends a choice and is its last token, unless min_new_tokens forbids it", async (t) => {
  const { engine, observer } = setup();
  const base = engineRequest({ promptIds: prompt(5, 6), maxNewTokens: 10 });
  const [, , third] = firstIds(base);
  const stopped = engineRequest({ ...base, eosIds: [50, third!] });
  const first = engineRequest({ ...base, eosIds: [firstIds(base)[0]!] });
  const delayed = engineRequest({ ...base, eosIds: [third!], sampling: { ...GREEDY, minNewTokens: 5 } });
  const recordings = [stopped, first, delayed].map((request) => new Recording(engine, request));
  await Promise.all(recordings.map((recording) => recording.ended));
  t.same(recordings[0]!.ids, [firstIds(base).slice(0, firstIds(base).indexOf(third!) + 1)]);
  t.same(recordings[0]!.reasons, ["eos"]);
  t.same(recordings[1]!.ids, [[firstIds(base)[0]]], "the very first token");
  t.same(recordings[1]!.reasons, ["eos"]);
  t.same(recordings[2]!.ids, [oracle(delayed, 0)]);
  t.ok(recordings[2]!.ids[0]!.length >= 5);
  t.same(observer.outcomes.eos, recordings.filter(({ reasons }) => reasons[0] === "eos").length);
});

t.test(
  "EOS at the length limit ends as eos, also if the listener stops there; a stop there ends as stop",
  async (t) => {
    const { engine } = setup();
    const base = engineRequest({ promptIds: prompt(8), maxNewTokens: 1 });
    const [id] = firstIds(base);
    const stop = { onToken: (): "stop" => "stop" };
    const recordings = [
      new Recording(engine, { ...base, eosIds: [id!] }),
      new Recording(engine, { ...base, eosIds: [id!] }, stop),
      new Recording(engine, base, stop),
      new Recording(engine, base),
    ];
    await Promise.all(recordings.map((recording) => recording.ended));
    t.same(
      recordings.map(({ reasons }) => reasons[0]),
      ["eos", "eos", "stop", "length"],
    );
  },
);

t.test("a listener's stop ends only its choice", async (t) => {
  const { engine, observer } = setup();
  const request = engineRequest({
    promptIds: prompt(3),
    n: 3,
    maxNewTokens: 9,
    sampling: { ...GREEDY, doSample: true },
    seed: 5,
  });
  const seen = [0, 0, 0];
  const recording = new Recording(engine, request, {
    onToken: ({ choice }) => (++seen[choice]! === 2 * choice + 1 && choice < 2 ? "stop" : "continue"),
  });
  await recording.ended;
  t.same(recording.ids, [oracle(request, 0).slice(0, 1), oracle(request, 1).slice(0, 3), oracle(request, 2)]);
  t.same(recording.reasons, ["stop", "stop", "length"]);
  t.same(observer.outcomes, { stop: 2, length: 1 });
});

t.test("a full queue refuses; accepted requests are served", async (t) => {
  const { engine } = setup({ slots: 1, maxQueue: 3 });
  const request = engineRequest({ promptIds: prompt(1), maxNewTokens: 3 });
  // Three may wait, and a fourth takes the free row in the next step.
  const recordings = [0, 1, 2, 3].map(() => new Recording(engine, request));
  t.throws(() => new Recording(engine, request), { code: "queue_full", retryAfter: 1 });
  while (!recordings[0]!.started) await turn();
  t.equal(engine.stats().queued, 3, "the one that runs waits no longer");
  t.throws(() => new Recording(engine, request), { code: "queue_full" });
  await Promise.all(recordings.map((recording) => recording.ended));
  for (const recording of recordings) t.same(recording.ids, [oracle(request, 0)]);
  t.match(await idle(engine), IDLE);
});

t.test("without a queue, free rows can still be taken", async (t) => {
  const { engine } = setup({ slots: 2, maxQueue: 0 });
  const request = engineRequest({ promptIds: prompt(1), maxNewTokens: 3 });
  const recordings = [0, 1].map(() => new Recording(engine, request));
  t.throws(() => new Recording(engine, request), { code: "queue_full" });
  await Promise.all(recordings.map((recording) => recording.ended));
  recordings.push(new Recording(engine, request));
  await recordings[2]!.ended;
  for (const recording of recordings) t.same(recording.ids, [oracle(request, 0)]);
});

t.test("more choices than rows are refused, since they would wait for ever", async (t) => {
  const { engine } = setup({ slots: 2 });
  t.throws(() => new Recording(engine, engineRequest({ promptIds: prompt(1), n: 3 })), RangeError);
  t.match(engine.stats(), IDLE);
});

t.test("others decode between the chunks of a long prompt", async (t) => {
  const { engine, observer } = setup({ prefillChunk: 4 });
  const short = engineRequest({ promptIds: prompt(1), maxNewTokens: 40 });
  const long = engineRequest({ promptIds: Int32Array.from({ length: 41 }, (_, i) => i), maxNewTokens: 2 });
  const recordings = [new Recording(engine, short), new Recording(engine, long)];
  await Promise.all(recordings.map((recording) => recording.ended));
  t.same(
    recordings.map(({ ids }) => ids),
    [[oracle(short, 0)], [oracle(long, 0)]],
  );
  const phases = observer.steps.map(({ phase }) => (phase === "prefill" ? "p" : "d")).join("");
  t.match(phases, /^pdp(dp){9}/, "one chunk, one decode, and so on");
  t.same(
    observer.steps.filter(({ phase }) => phase === "prefill").map(({ tokens }) => tokens),
    [1, ...Array<number>(10).fill(4), 1],
  );
});

t.test("a request that needs all rows is not starved by small ones", async (t) => {
  const { engine, runner } = setup({ slots: 3 });
  let flood = 0;
  // Of different lengths, so that their rows never happen to be free all at once.
  const small = (): EngineRequest => engineRequest({ promptIds: prompt(1), maxNewTokens: 3 + (flood % 5) });
  let open = true;
  // There is always one more of the small ones than there are rows.
  const spawn = (): void => {
    flood++;
    void new Recording(engine, small(), { onStart: () => void (open && spawn()) });
  };
  for (let i = 0; i < 4; i++) spawn();
  while (engine.stats().running < 3) await turn();
  const wide = new Recording(engine, { ...small(), n: 3, sampling: { ...GREEDY, doSample: true } });
  const late = setTimeout(() => (open = false), 20_000);
  await wide.ended;
  clearTimeout(late);
  t.ok(open, "it was served while the flood went on");
  t.ok(flood > 60 && flood < 100, `after ${flood} small ones`);
  open = false;
  t.match(await idle(engine), IDLE);
  t.same(runner.misuses, []);
});

t.test("a complete prompt moves next to the running rows", async (t) => {
  const { engine, runner } = setup({ slots: 4, prefillChunk: 4 });
  const brief = [1, 2].map((id) => engineRequest({ promptIds: prompt(id), maxNewTokens: 3 }));
  const long = engineRequest({
    promptIds: Int32Array.from({ length: 30 }, (_, i) => i),
    prefix: fakePrefix(2, 4),
    n: 2,
    sampling: { ...GREEDY, doSample: true },
    maxNewTokens: 5,
  });
  const recordings = [...brief, long].map((request) => new Recording(engine, request));
  const moved: number[] = [];
  const copyRow = runner.copyRow.bind(runner);
  runner.copyRow = (from, to, length, start): void => {
    moved.push(from, to, length);
    copyRow(from, to, length, start);
  };
  await Promise.all(recordings.map((recording) => recording.ended));
  t.same(
    moved.slice(0, 6),
    [2, 0, 34, 0, 1, 34],
    "from row 2, where it was fed, to row 0; then the second choice's copy",
  );
  t.same(recordings[2]!.ids, [oracle(long, 0), oracle(long, 1)]);
  t.same(runner.misuses, []);
});

interface Given {
  readonly request: EngineRequest;
  /** After how many of choice 0's tokens the listener says stop, or the client goes, or the prefix is removed; -1: after so many turns. */
  readonly act: "none" | "stop" | "cancelled" | "removed";
  readonly after: number;
  readonly fromCallback: boolean;
}

function randomRequest(random: () => number, slots: number, prefixes: readonly KvTensor[]): Given {
  const upTo = (n: number): number => Math.floor(random() * (n + 1));
  const n = random() < 0.2 ? 1 + upTo(Math.min(slots, 4) - 1) : 1;
  const doSample = n > 1 || random() < 0.4;
  const sampling = {
    ...GREEDY,
    doSample,
    temperature: doSample ? 0.5 + random() : 1,
    topK: doSample ? upTo(20) : 0,
    repetitionPenalty: random() < 0.2 ? 1.3 : 1,
    minNewTokens: random() < 0.2 ? upTo(6) : 0,
  };
  const act = random() < 0.6 ? "none" : (["stop", "cancelled", "removed"] as const)[upTo(2)]!;
  const request = engineRequest({
    promptIds: Int32Array.from({ length: 1 + upTo(random() < 0.8 ? 9 : 50) }, () => upTo(NAN_TOKEN - 1)),
    prefix: random() < 0.25 ? null : prefixes[upTo(prefixes.length - 1)]!,
    n,
    maxNewTokens: 1 + upTo(20),
    sampling,
    seed: upTo(1e9),
    topLogprobs: upTo(3),
    eosIds: random() < 0.5 ? [upTo(95), upTo(95), upTo(95), upTo(95), upTo(95), upTo(95)] : [],
  });
  return { request, act, after: upTo(12), fromCallback: act === "stop" || random() < 0.5 };
}

t.test(
  "random joins, leaves, cancellations, forks and prefixes: each request gets the tokens that it gets alone",
  async (t) => {
    const prefixes = Array.from({ length: 5 }, (_, seed) => fakePrefix(seed, 1 + seed * 7));
    for (let seed = 0; seed < 40; seed++) {
      const random = seededRandom(1000 + seed);
      const slots = 1 + Math.floor(random() * 9);
      const turns = Math.floor(random() * 3);
      const runner = new FakeRunner(slots, async () => {
        for (let i = 0; i <= turns; i++) await turn();
      });
      const { engine, observer } = setup({ runner, prefillChunk: 1 + Math.floor(random() * 16) });
      const all: { given: Given; recording: Recording }[] = [];
      const acts: Promise<void>[] = [];
      for (let i = 0; i < 50; i++) {
        const given = randomRequest(random, slots, prefixes);
        const act = given.act;
        let tokens = 0;
        const recording = new Recording(engine, given.request, {
          onToken({ choice }, handle) {
            if (!given.fromCallback || choice !== 0 || ++tokens !== given.after) return "continue";
            if (act === "stop") return "stop";
            if (act !== "none") handle.cancel(act);
            return "continue";
          },
        });
        all.push({ given, recording });
        if (!given.fromCallback && (act === "cancelled" || act === "removed")) {
          acts.push(
            (async (): Promise<void> => {
              for (let left = given.after * 4; left > 0; left--) await turn();
              recording.handle.cancel(act);
            })(),
          );
        }
        if (random() < 0.3) for (let left = Math.floor(random() * 20); left > 0; left--) await turn();
      }
      await Promise.all(acts);
      await idle(engine, 50_000);

      const bad: unknown[] = [];
      const expectedOutcomes: Record<string, number> = {};
      for (const { given, recording } of all) {
        const { request } = given;
        recording.ids.forEach((ids, choice) => {
          const whole = oracle(request, choice);
          const natural: FinishReason = request.eosIds.includes(whole.at(-1)!) ? "eos" : "length";
          const reason = recording.reasons[choice]!;
          const complete = reason === "eos" || reason === "length";
          const outcome = reason ?? "cancelled";
          expectedOutcomes[outcome] = (expectedOutcomes[outcome] ?? 0) + 1;
          const right = complete
            ? String(ids) === String(whole) && reason === natural
            : String(ids) === String(whole.slice(0, ids.length));
          const allowed = complete || (reason === null && given.act === "cancelled") || reason === given.act;
          if (!right || !allowed || recording.error !== null)
            bad.push({ seed, request, ids, whole, reason, error: recording.error });
        });
        if (recording.violations.length > 0) bad.push({ seed, violations: recording.violations });
      }
      if (bad.length > 0 || runner.misuses.length > 0)
        t.fail(`seed ${seed}`, { bad: bad.slice(0, 2), misuses: runner.misuses });
      t.same(observer.outcomes, expectedOutcomes, `seed ${seed}: one outcome per sequence`);
      if (runner.widest > slots) t.fail("a batch wider than the cache");
    }
    t.ok(FAKE_SHAPE.positions >= 35 + 51 + 21, "the longest request fits");
  },
);

t.test("work that runs elsewhere counts as service: its user's requests come later", async (t) => {
  const order = async (charged: string): Promise<string[]> => {
    const { engine } = setup({ slots: 1 });
    const started: string[] = [];
    const ask = (tenant: string): Recording =>
      new Recording(engine, engineRequest({ promptIds: prompt(1, 2), maxNewTokens: 2, tenant }), {
        onStart: () => void started.push(tenant),
      });
    const all = ["eve", "ann", "bob"].map(ask);
    engine.charge(charged, 1000);
    t.ok(engine.serviceOf(charged) >= 1000);
    await Promise.all(all.map(({ ended }) => ended));
    return started.slice(-2);
  };
  t.same(await order("eve"), ["bob", "eve"]);
  t.same(await order("ann"), ["bob", "ann"]);
});
