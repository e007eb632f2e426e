/** Where a row of the KV cache ends on a device, the next one begins: what would go beyond it never reaches the runner. */
import t from "tap";
import { Engine } from "../../src/engine/engine.ts";
import { checkContext } from "../../src/engine/scheduling/admission.ts";
import type { EngineRequest } from "../../src/engine/request.ts";
import type { FoldInput } from "../../src/kv.ts";
import { SIMULATED } from "../support/devices.ts";
import { FAKE_SHAPE, FakeRunner, fakePrefix, oracle } from "../support/fake-runner.ts";
import { engineRequest, goldenDir, GREEDY, openTestModel, seededRandom, submit } from "../support/model.ts";
import { CountingObserver, Recording } from "../support/recording.ts";

t.setTimeout(60_000);

/** What is fed of a request: every token but the last new one. */
const fed = ({ prefix, promptIds, maxNewTokens }: EngineRequest): number =>
  (prefix?.length ?? 0) + promptIds.length + Math.max(0, maxNewTokens - 1);

t.test("a request is admitted exactly if every token to be fed has a position in its row", async (t) => {
  const { positions } = FAKE_SHAPE;
  const random = seededRandom(23);
  const below = (n: number): number => Math.floor(random() * n);
  const seen = { refused: 0, full: 0 };
  for (let round = 0; round < 150; round++) {
    const runner = new FakeRunner(4);
    const engine = new Engine({ runner, maxQueue: 10, prefillChunk: 64, observer: new CountingObserver() });
    const prefix = below(3) === 0 ? null : fakePrefix(round, 1 + below(positions - 1));
    const maxNewTokens = below(6);
    const around = positions + below(5) - 2 - (prefix?.length ?? 0) - Math.max(0, maxNewTokens - 1);
    const promptIds = Int32Array.from({ length: Math.max(1, around) }, () => below(90));
    const n = 1 + below(3);
    const kinds: Partial<EngineRequest>[] = [
      {},
      { n, sampling: { ...GREEDY, doSample: true } },
      { scorePrompt: true, topLogprobs: 1 },
      ...(maxNewTokens > 0 ? [{ n: 1, beams: { numBeams: 3, lengthPenalty: 1, earlyStopping: false } }] : []),
    ];
    const request = engineRequest({ promptIds, prefix, maxNewTokens, seed: round, ...kinds[below(kinds.length)] });
    if (fed(request) > positions) {
      seen.refused++;
      t.throws(() => new Recording(engine, request), { code: "context_exceeded", status: 422 });
      t.ok(
        Object.values(runner.calls).every((calls) => calls === 0),
        "no call of the runner",
      );
      continue;
    }
    if (fed(request) === positions) seen.full++;
    const recording = new Recording(engine, request);
    await recording.ended;
    t.equal(recording.error, null);
    if (request.beams === null)
      t.same(
        recording.ids,
        recording.ids.map((_, choice) => (maxNewTokens === 0 ? [] : oracle(request, choice))),
      );
    t.same(runner.misuses, []);
  }
  t.ok(seen.refused > 20 && seen.full > 20, "both sides of the end, often");
});

t.test("lengths that are not numbers do not fit, nor do folds longer than a row", async (t) => {
  for (const maxNew of [NaN, Infinity])
    t.throws(() => checkContext({ prefix: 0, prompt: 1, maxNew }, 64), { code: "context_exceeded" });
  const runner = new FakeRunner(1);
  const engine = new Engine({ runner, maxQueue: 10, prefillChunk: 64, observer: new CountingObserver() });
  const { positions, width } = FAKE_SHAPE;
  const inputs = (length: number): FoldInput[] => [
    { kind: "tokens", ids: new Int32Array(length) },
    { kind: "embeddings", length, data: new Float32Array(length * width) },
  ];
  for (const input of inputs(positions + 1))
    await t.rejects(engine.fold(input, { tenant: "test" }), { code: "context_exceeded" });
  t.equal(runner.calls.fold, 0);
  for (const input of inputs(positions)) await engine.fold(input, { tenant: "test" });
  t.equal(runner.calls.fold, (2 * positions) / 64, "in chunks");
});

for (const [name, device] of Object.entries(SIMULATED)) {
  t.test(`${name}: full rows side by side, and a refused one, change no bit of their neighbours`, async (t) => {
    const model = await openTestModel(goldenDir("gelu-new-f32"), { slots: 3, device });
    try {
      const { positions } = model.runner.shape;
      const ids = (length: number, seed: number): Int32Array =>
        Int32Array.from({ length }, (_, at) => (at * 7 + seed * 13) % 200);
      const full = [1, 2, 3].map((seed) =>
        engineRequest({
          promptIds: ids(positions - 8, seed),
          maxNewTokens: 9,
          topLogprobs: 2,
          scorePrompt: seed === 3,
        }),
      );
      const alone = [];
      for (const request of full) alone.push(await submit(model.engine, request).done);
      const together = full.map((request) => submit(model.engine, request).done);
      for (const [maxNewTokens, length] of [
        [0, positions + 1],
        [10, positions - 8],
        [1, positions + 1],
      ] as const) {
        await t.rejects(
          submit(model.engine, engineRequest({ promptIds: ids(length, 5), maxNewTokens, scorePrompt: true })).done,
          { code: "context_exceeded" },
        );
      }
      t.same(await Promise.all(together), alone);
      const [echoed] = await submit(
        model.engine,
        engineRequest({ promptIds: ids(positions, 4), maxNewTokens: 0, scorePrompt: true }),
      ).done;
      t.equal(echoed?.reason, "length", "nothing new: all positions are the prompt's");
    } finally {
      await model.close();
    }
  });
}
