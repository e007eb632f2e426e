/** Prompts that share a run, on a runner that takes several: the tokens are those of each alone, whatever ends or fails beside them. */
import t from "tap";
import { Engine } from "../../src/engine/engine.ts";
import type { EngineRequest } from "../../src/engine/request.ts";
import { inRuns, type PrefillChunk } from "../../src/engine/scheduling/plan.ts";
import { FakeRunner, fakePrefix, oracle } from "../support/fake-runner.ts";
import { engineRequest, GREEDY, seededRandom } from "../support/model.ts";
import { CountingObserver, idle, Recording } from "../support/recording.ts";

t.setTimeout(60_000);

class PromptsRunner extends FakeRunner {
  override readonly promptsAtOnce = 4;
  override readonly longestChunk = 24;
  override readonly chunkingChangesBits = true;
}

function setup(slots = 8): { engine: Engine; runner: PromptsRunner; observer: CountingObserver } {
  const runner = new PromptsRunner(slots);
  const observer = new CountingObserver();
  return { engine: new Engine({ runner, maxQueue: 1000, prefillChunk: 24, observer }), runner, observer };
}

const request = (seed: number, given: Partial<EngineRequest> = {}): EngineRequest =>
  engineRequest({
    promptIds: Int32Array.from({ length: 3 + (seed % 3) }, (_, at) => (seed + 7 * at) % 90),
    prefix: fakePrefix(seed, 1 + (seed % 4)),
    maxNewTokens: 5,
    ...given,
  });

t.test("chunks that share a run", async (t) => {
  const chunk = (request: string, from: number, to: number, last = true): PrefillChunk<string> => ({
    request,
    from,
    to,
    last,
    passedOver: [],
  });
  const runs = (...plan: PrefillChunk<string>[]): string[] =>
    inRuns(plan, { promptsAtOnce: 3, longestChunk: 10 }, (request) => request !== "scored").map((run) =>
      run.map(({ request }) => request).join(" "),
    );
  t.same(runs(), []);
  t.same(runs(chunk("a", 0, 4), chunk("b", 0, 4), chunk("c", 0, 2)), ["a b c"]);
  t.same(runs(chunk("a", 0, 4), chunk("b", 0, 4), chunk("c", 0, 3)), ["a b", "c"], "ten tokens");
  t.same(runs(...["a", "b", "c", "d"].map((name) => chunk(name, 0, 1))), ["a b c", "d"], "three prompts");
  t.same(
    runs(chunk("a", 8, 9), chunk("b", 0, 1), chunk("c", 0, 1)),
    ["a", "b c"],
    "the end of a prompt begun before has its own",
  );
  t.same(runs(chunk("a", 0, 1), chunk("b", 0, 8, false)), ["a", "b"], "and so has what is not the end");
  t.same(runs(chunk("a", 0, 1), chunk("scored", 0, 1), chunk("c", 0, 1)), ["a", "scored", "c"]);
  t.same(
    inRuns([chunk("a", 0, 1), chunk("b", 0, 1)], { promptsAtOnce: 1, longestChunk: Infinity }, () => true).length,
    2,
    "a runner that takes one",
  );
});

t.test("requests of one turn are prefilled in one run, including forks and choices that end at once", async (t) => {
  const { engine, runner, observer } = setup();
  const requests = [
    request(1),
    request(2, { n: 3 }),
    request(3, { maxNewTokens: 0 }),
    request(4, { maxNewTokens: 1 }),
    request(5),
  ];
  const recordings = requests.map((one) => new Recording(engine, one));
  await Promise.all(recordings.map(({ ended }) => ended));
  for (const [index, { ids }] of recordings.entries())
    t.same(ids, requests[index]!.maxNewTokens === 0 ? [[]] : ids.map((_, choice) => oracle(requests[index]!, choice)));
  t.equal(runner.calls.prefillAll, 1);
  t.same(
    observer.steps.slice(0, 2),
    [
      { phase: "prefill", rows: 4, tokens: 4 + 5 + 3 + 4 },
      { phase: "prefill", rows: 1, tokens: 5 },
    ],
    "four at once",
  );
  t.same(runner.misuses, []);
});

t.test("a failed run fails the requests in it, a failed prefix load only its own", async (t) => {
  for (const method of ["prefillAll", "loadPrefix"] as const) {
    const { engine, runner } = setup();
    const before = new Recording(engine, request(1, { maxNewTokens: 40 }));
    while (before.tokens.length < 3) await new Promise(setImmediate);
    runner.failOn(method, method === "prefillAll" ? 1 : 2);
    const together = [2, 3, 4].map((seed) => new Recording(engine, request(seed)));
    await Promise.all([before, ...together].map(({ ended }) => ended));
    t.same(
      together.map(({ error }) => error?.code),
      method === "prefillAll" ? Array(3).fill("model_failed") : [undefined, "model_failed", undefined],
    );
    for (const [index, { ids, error }] of together.entries())
      if (error === null) t.same(ids, [oracle(request(2 + index), 0)]);
    t.same(before.ids, [oracle(request(1, { maxNewTokens: 40 }), 0)]);
    t.match(await idle(engine), { queued: 0, running: 0 });
    t.same(runner.misuses, []);
  }
});

t.test("a request cancelled at its start or during prefill leaves other rows alone", async (t) => {
  const { engine, runner, observer } = setup();
  const starting = new Recording(engine, request(1), { onStart: (handle) => handle.cancel("removed") });
  const fed = new Recording(engine, request(2, { n: 2 }));
  const others = [3, 4].map((seed) => new Recording(engine, request(seed)));
  runner.during = (method) => {
    t.match(
      engine.stats(),
      method === "prefillAll" ? { queued: 0, running: 5 } : {},
      "rows of prompts under way are taken",
    );
    if (method === "prefillAll") fed.handle.cancel("removed");
  };
  await Promise.all([starting, fed, ...others].map(({ ended }) => ended));
  t.same([starting.reasons, fed.reasons], [["removed"], ["removed", "removed"]]);
  t.same(
    others.map(({ ids }) => ids),
    [[oracle(request(3), 0)], [oracle(request(4), 0)]],
  );
  t.match(observer.steps[0], { phase: "prefill", rows: 3 });
  t.same(runner.misuses, []);
});

t.test("random mixes of long and scored prompts, choices, beams and cancellations", async (t) => {
  const random = seededRandom(11);
  const upTo = (most: number): number => Math.floor(random() * (most + 1));
  const { engine, runner } = setup(9);
  const told: { given: EngineRequest; recording: Recording; cancelled: boolean }[] = [];
  for (let index = 0; index < 400; index++) {
    const prompt = Int32Array.from({ length: 1 + (random() < 0.2 ? upTo(60) : upTo(9)) }, () => upTo(90));
    const prefix = random() < 0.3 ? null : fakePrefix(upTo(20), 1 + upTo(12));
    const given = engineRequest({
      promptIds: prompt,
      prefix,
      n: 1 + upTo(3),
      seed: index,
      sampling: { ...GREEDY, doSample: random() < 0.5 },
      maxNewTokens: upTo(12),
      scorePrompt: random() < 0.1,
    });
    const cancelled = random() < 0.15;
    const recording = new Recording(engine, given, {
      onToken: (_, handle) => (cancelled && random() < 0.3 && handle.cancel("removed"), "continue"),
    });
    told.push({ given, recording, cancelled });
    if (random() < 0.3) for (let turns = upTo(12); turns > 0; turns--) await new Promise(setImmediate);
  }
  await Promise.all(told.map(({ recording }) => recording.ended));
  for (const { given, recording, cancelled } of told) {
    t.same(recording.violations, []);
    for (const [choice, ids] of recording.ids.entries()) {
      const expected = given.maxNewTokens === 0 ? [] : oracle(given, choice);
      if (JSON.stringify(ids) !== JSON.stringify(cancelled ? expected.slice(0, ids.length) : expected))
        t.fail(`${JSON.stringify(ids)} instead of ${JSON.stringify(expected)}`);
    }
  }
  t.same(runner.misuses, []);
  t.ok(runner.calls.prefillAll > 20, `${runner.calls.prefillAll} runs of several prompts`);
});
