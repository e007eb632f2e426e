/** Beam searches and scored prompts in the engine's batch, on a runner that knows what was written into each row. */
import { setImmediate as turn } from "node:timers/promises";
import t from "tap";
import { Engine } from "../../../src/engine/engine.ts";
import type { TenantShares } from "../../../src/engine/scheduling/fair-share.ts";
import type { EngineRequest, TokenStop } from "../../../src/engine/request.ts";
import { beamOracle, FakeRunner, fakePrefix, NAN_TOKEN, oracle } from "../../support/fake-runner.ts";
import { engineRequest, GREEDY, seededRandom } from "../../support/model.ts";
import { CountingObserver, idle, Recording } from "../../support/recording.ts";

t.setTimeout(60_000);

function setup(given: { slots?: number; shares?: TenantShares; mayEmit?: () => boolean } = {}): {
  engine: Engine;
  runner: FakeRunner;
  observer: CountingObserver;
} {
  const { slots = 8, ...rest } = given;
  const runner = new FakeRunner(slots);
  const observer = new CountingObserver();
  return {
    engine: new Engine({ runner, maxQueue: 100, prefillChunk: 4, observer, now: () => 0, ...rest }),
    runner,
    observer,
  };
}

const EOS = [7, 30, 61];

/** Ends nearly every beam, so that a search now and then has fewer than it may have. */
const stopAfter = (share: number, sum = 0): TokenStop => ({
  after: (id) => ((sum + id * 7) % 10 < share ? null : stopAfter(share, sum + id)),
});

function beamRequest(numBeams: number, given: Partial<EngineRequest> = {}): EngineRequest {
  const beams = { numBeams, lengthPenalty: 1, earlyStopping: false };
  return engineRequest({
    promptIds: Int32Array.of(5, 6, 9, 2, 44, 3),
    prefix: fakePrefix(2, 3),
    n: numBeams,
    beams,
    maxNewTokens: 14,
    eosIds: EOS,
    ...given,
  });
}

/** What a recording must hold after a search. */
const expected = (request: EngineRequest): unknown =>
  beamOracle(request).map(({ tokens, reason, score }) => [tokens.map(({ id }) => id), reason, score]);
const told = ({ ids, reasons, scores }: Recording): unknown =>
  ids.map((one, choice) => [one, reasons[choice], scores[choice]]);

t.test(
  "random searches among greedy and sampled choices give what each gives alone, in few rows and many",
  async (t) => {
    const random = seededRandom(21);
    const below = (limit: number): number => Math.floor(random() * limit);
    let [ended, short] = [0, 0];
    for (let round = 0; round < 40; round++) {
      const { engine, runner, observer } = setup({ slots: 5 + below(8) });
      const requests = Array.from({ length: 14 }, (_, index) => {
        const common = {
          promptIds: Int32Array.from({ length: 1 + below(13) }, () => below(90)),
          prefix: below(3) === 0 ? null : fakePrefix(below(9), 1 + below(9)),
          maxNewTokens: 1 + below(16),
          scorePrompt: below(4) === 0,
        };
        const sampling = {
          ...GREEDY,
          repetitionPenalty: below(4) === 0 ? 1.3 : 1,
          minNewTokens: below(3),
          forcedBosId: below(3) === 0 ? 12 : null,
          suppressIds: [64 + below(20)],
          beginSuppressIds: [below(90)],
          forcedLast: below(4) === 0 ? { ids: [EOS[0]!], index: common.maxNewTokens - 1 } : null,
          exponentialDecay: below(3) === 0 ? { start: 2, factor: 1.2 } : null,
          sequenceBias: [{ ids: [below(90), below(90)], bias: 3 }],
          doSample: below(2) === 0,
          topH: below(4) === 0 ? 0.6 : null,
          temperature: 1.4,
          topK: [0, 3, 50][below(3)]!,
          renormalize: below(2) === 0,
        };
        if (index % 3 === 0)
          return engineRequest({
            ...common,
            n: 1 + below(3),
            sampling: { ...sampling, doSample: true },
            seed: index,
            eosIds: EOS,
          });
        const numBeams = 2 + below(4);
        const beams = {
          numBeams,
          lengthPenalty: below(3),
          earlyStopping: ([false, true, "never"] as const)[below(3)]!,
        };
        return beamRequest(numBeams, {
          ...common,
          sampling,
          beams,
          n: 1 + below(numBeams),
          seed: index,
          beamStop: below(2) === 0 ? stopAfter(2 + below(5)) : null,
        });
      });
      const recordings = requests.map((request) => new Recording(engine, request));
      await Promise.all(recordings.map((recording) => recording.ended));
      for (const [index, request] of requests.entries()) {
        const recording = recordings[index]!;
        if (request.beams === null)
          for (const [choice, ids] of recording.ids.entries()) t.same(ids, oracle(request, choice));
        else if (recording.error === null) t.same(told(recording), expected(request));
        else {
          t.throws(() => expected(request), { code: "invalid_parameter" }, "so few sequences are possible");
          short++;
        }
        t.same(recording.violations, []);
        if (recording.reasons.includes("eos")) ended++;
      }
      await idle(engine);
      t.same(runner.misuses, []);
      t.equal(
        observer.ended,
        requests.reduce((sum, { n }) => sum + n, 0),
        "one outcome for every choice",
      );
    }
    t.ok(ended > 50, `${ended} requests ended with EOS`);
    t.ok(short < 100, `${short} requests had too few results`);
  },
);

t.test("a search starts once every beam can have a row, not before", async (t) => {
  const { engine, runner } = setup({ slots: 5 });
  t.throws(() => new Recording(engine, beamRequest(6)), RangeError);
  const first = new Recording(engine, beamRequest(4, { eosIds: [] }));
  const second = new Recording(engine, beamRequest(2, { eosIds: [] }));
  while (first.searched === 0) await turn();
  t.match(engine.stats(), { queued: 1, running: 4 });
  await first.ended;
  t.equal(first.searched, 4 * 14, "a token for every beam and step");
  await second.ended;
  t.equal(runner.widest, 4);
  t.same(runner.misuses, []);
});

t.test("a search ended by stop strings frees its rows at once; with one beam left it keeps them all", async (t) => {
  const { engine, runner } = setup({ slots: 4 });
  const never: TokenStop = { after: () => null };
  const ended = new Recording(engine, beamRequest(4, { eosIds: [], beamStop: never, n: 4 }));
  const waiting = new Recording(engine, beamRequest(4, { eosIds: [], maxNewTokens: 3 }));
  await ended.ended;
  t.same(
    [ended.searched, ended.reasons, ended.ids.map(({ length }) => length)],
    [4, ["stop", "stop", "stop", "stop"], [1, 1, 1, 1]],
  );
  await waiting.ended;
  t.same(told(waiting), expected(beamRequest(4, { eosIds: [], maxNewTokens: 3 })));
  // Its first token is forced: one beam, which forks into four a step later.
  const forced = beamRequest(4, {
    promptIds: Int32Array.of(9),
    sampling: { ...GREEDY, forcedBosId: 55 },
    maxNewTokens: 6,
  });
  const widths: number[] = [];
  const one = new Recording(engine, forced, { onBeamStep: () => void widths.push(engine.stats().running) });
  await one.ended;
  t.same(told(one), expected(forced));
  t.ok(one.ids.every((ids) => ids[0] === 55));
  t.same([...new Set(widths)], [4]);
  t.same(runner.misuses, []);
  t.match(await idle(engine), { running: 0 });
});

t.test("beams count towards a tenant's row limit, and are charged for what they compute", async (t) => {
  const limited = {
    of: (tenant: string) => ({ weight: 1, maxRunning: tenant === "small" ? 3 : null, maxQueued: null }),
  };
  const { engine } = setup({ slots: 8, shares: limited });
  t.throws(() => new Recording(engine, beamRequest(4, { tenant: "small" })), {
    code: "invalid_parameter",
    message: /4 sequences.*only 3/,
  });
  // While both wait the one that searches with four beams gets its turn a quarter as often.
  const { engine: busy } = setup({ slots: 4 });
  const finished: string[] = [];
  const hooks = (tenant: string): object => ({ onFinish: () => void finished.push(tenant) });
  const all = Array.from({ length: 12 }, () => [
    new Recording(busy, beamRequest(4, { tenant: "wide", n: 1, eosIds: [], maxNewTokens: 20 }), hooks("wide")),
    new Recording(
      busy,
      beamRequest(4, {
        tenant: "narrow",
        n: 4,
        beams: null,
        eosIds: [],
        maxNewTokens: 5,
        sampling: { ...GREEDY, doSample: true },
      }),
      hooks("narrow"),
    ),
  ]).flat();
  while (finished.filter((tenant) => tenant === "narrow").length < 40) await turn();
  const wide = finished.filter((tenant) => tenant === "wide").length;
  t.ok(wide >= 1 && wide <= 4, `10 requests of 20 tokens beside ${wide} of 80`);
  await Promise.all(all.map(({ ended }) => ended));
});

for (const reason of ["cancelled", "removed"] as const) {
  t.test(`${reason} in mid-search frees all rows at the next step; other requests do not notice`, async (t) => {
    const { engine, runner, observer } = setup({ slots: 6 });
    for (let row = 0; row < 6; row++) runner.wipe(row, 0, runner.shape.positions);
    const other = engineRequest({ promptIds: Int32Array.of(1, 2), maxNewTokens: 30 });
    const beside = new Recording(engine, other);
    const request = beamRequest(5, { eosIds: [], maxNewTokens: 40, n: 3 });
    let steps = 0;
    const target = new Recording(engine, request, {
      onBeamStep: (handle) => void (++steps === 6 && handle.cancel(reason)),
    });
    const waiting = new Recording(engine, beamRequest(4));
    await Promise.all([beside.ended, waiting.ended]);
    await idle(engine);
    t.equal(target.searched, 30);
    t.same(target.tokens, []);
    t.same(target.reasons, reason === "removed" ? ["removed", "removed", "removed"] : [null, null, null]);
    t.same([beside.ids[0], told(waiting)], [oracle(other, 0), expected(beamRequest(4))]);
    t.same([target.violations, runner.misuses], [[], []]);
    t.equal(observer.outcomes[reason], 3);
    await engine.wipeFreed();
    t.same(
      Array.from({ length: 6 }, (_, row) => runner.cells(row).some((cell) => cell !== 0)),
      Array(6).fill(false),
      "nothing of it is left",
    );
  });

  t.test(`${reason} while results are delivered`, async (t) => {
    for (const at of ["token", "finish"] as const) {
      const { engine, runner, observer } = setup();
      const target = new Recording(engine, beamRequest(3), {
        onToken: (_, handle) => void (at === "token" && target.tokens.length === 2 && handle.cancel(reason)),
        onFinish: (choice, _, handle) => void (at === "finish" && choice === 0 && handle.cancel(reason)),
      });
      await idle(engine);
      const first = at === "finish" ? beamOracle(beamRequest(3))[0]!.reason : null;
      const rest = reason === "removed" ? "removed" : null;
      t.same(target.reasons, [first ?? rest, rest, rest]);
      t.equal(observer.ended, 3);
      t.same([target.violations, runner.misuses], [[], []]);
    }
  });
}

t.test("a failed fork or non-finite logits end the search and nothing else", async (t) => {
  const { engine, runner, observer } = setup();
  const beside = new Recording(engine, engineRequest({ promptIds: Int32Array.of(1, 2), maxNewTokens: 9 }));
  const victim = new Recording(engine, beamRequest(3));
  runner.failOn("copyRow", 2);
  const poisoned = new Recording(engine, beamRequest(3, { promptIds: Int32Array.of(4, NAN_TOKEN) }));
  await Promise.all([beside.ended, victim.ended, poisoned.ended]);
  t.match([victim.error, poisoned.error], [{ code: "model_failed" }, { code: "model_failed" }]);
  t.same(beside.ids[0], oracle(engineRequest({ promptIds: Int32Array.of(1, 2), maxNewTokens: 9 }), 0));
  t.match(await idle(engine), { running: 0 });
  t.same(runner.misuses, []);
  t.same(observer.outcomes, { length: 1, error: 6 });
});

t.test("a search ends at its next step once the lease is lost", async (t) => {
  let may = true;
  const { engine } = setup({ mayEmit: () => may });
  const target = new Recording(engine, beamRequest(3, { eosIds: [] }), {
    onBeamStep: () => void (may = target.searched < 9),
  });
  await target.ended;
  t.match(target.error, { code: "store_unavailable" });
  t.equal(target.searched, 9);
});

t.test(
  "a prompt is scored token by token, whatever its chunks; with 0 new tokens the request ends there",
  async (t) => {
    const promptIds = Int32Array.of(5, 6, 9, 2, 44, 3, 8, 12, 90);
    const { engine, runner, observer } = setup();
    const given = { promptIds, prefix: fakePrefix(3, 4), topLogprobs: 2, scorePrompt: true };
    const only = new Recording(engine, engineRequest({ ...given, maxNewTokens: 0, n: 2 }));
    const drawn = engineRequest({ ...given, maxNewTokens: 3, n: 2, sampling: { ...GREEDY, doSample: true } });
    const both = new Recording(engine, drawn);
    await Promise.all([only.ended, both.ended]);
    t.same([only.reasons, only.tokens], [["length", "length"], []]);
    t.same(
      both.ids,
      [0, 1].map((choice) => oracle(drawn, choice)),
    );
    t.same(both.prompt, only.prompt);
    t.same(
      only.prompt!.map(({ id }) => id),
      [...promptIds],
    );
    t.same(only.prompt![0], { id: 5, logprob: null, top: [] });
    for (let length = 1; length < promptIds.length; length++) {
      // What the model says after the tokens before.
      const next = new Recording(
        engine,
        engineRequest({
          promptIds: promptIds.subarray(0, length),
          prefix: given.prefix,
          maxNewTokens: 1,
          topLogprobs: 2,
        }),
      );
      await next.ended;
      t.same(only.prompt![length]!.top, next.tokens[0]!.top);
      t.ok(only.prompt![length]!.logprob! <= next.tokens[0]!.logprob);
    }
    t.same([runner.misuses, only.violations, both.violations, runner.calls["prefill all"]], [[], [], [], 6]);
    t.match(await idle(engine), { running: 0 });
    t.equal(observer.counts.firstToken, 1 + promptIds.length - 1, "no first token where there is none");

    const cancelled = new Recording(engine, drawn, { onPrompt: (handle) => handle.cancel("removed") });
    await cancelled.ended;
    t.same([cancelled.reasons, cancelled.tokens], [["removed", "removed"], []]);
    const poisoned = new Recording(
      engine,
      engineRequest({ ...given, promptIds: Int32Array.of(1, NAN_TOKEN, 2), maxNewTokens: 0 }),
    );
    await poisoned.ended;
    t.match(poisoned.error, { code: "model_failed" });
  },
);
