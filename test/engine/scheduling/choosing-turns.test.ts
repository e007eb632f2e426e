/** Those whose choices take long leave the others their pace, and get the tokens that they would get alone. */
import t from "tap";
import { Engine } from "../../../src/engine/engine.ts";
import type { EngineRequest } from "../../../src/engine/request.ts";
import { leftOutOf, type Chooser } from "../../../src/engine/scheduling/choosing-turns.ts";
import { FakeRunner, oracle } from "../../support/fake-runner.ts";
import { engineRequest } from "../../support/model.ts";
import { CountingObserver, Recording } from "../../support/recording.ts";

const SLOTS = 8;
/** Milliseconds of a run, an eighth of it for each row. */
const RUN = 8;
/** Milliseconds of a heavy choice. */
const HEAVY = 5;

const heavyOf = (tenant: string, choosingTime = HEAVY): Chooser => ({ tenant, rows: 1, choosingTime, leftOut: 0 });

const leftOut = (choosers: readonly Chooser[], row: number): ReadonlySet<Chooser> =>
  leftOutOf(
    choosers.map((chooser) => ({ chooser })),
    RUN,
    row,
  );

t.test("a step's heavy choices take no longer than its run; tenants left out most often go first", (t) => {
  const light = heavyOf("victim", 1);
  const heavy = Array.from({ length: 4 }, () => heavyOf("heavy", 3));
  for (const round of [
    [0, 1],
    [2, 3],
    [0, 1],
    [2, 3],
  ]) {
    const left = leftOut([light, ...heavy], RUN / SLOTS);
    t.same(
      heavy.flatMap((chooser, index) => (left.has(chooser) ? [] : [index])),
      round,
    );
    t.notOk(left.has(light));
  }
  const [first, second, other] = [heavyOf("heavy", 3), heavyOf("heavy", 3), heavyOf("other", 3)];
  t.same([...leftOut([first, second, other], 1)], [second], "one of each");
  t.end();
});

t.test("a choice longer than any run still happens; a lone tenant and light choices are never deferred", (t) => {
  const [huge, small] = [heavyOf("a", 100 * RUN), heavyOf("b", 2)];
  t.same([...leftOut([huge, small], 1)], [small]);
  t.same([...leftOut([huge, small], 1)], [huge]);
  t.equal(
    leftOut(
      Array.from({ length: SLOTS }, () => heavyOf("a")),
      1,
    ).size,
    0,
  );
  t.equal(leftOut([heavyOf("a", 1), heavyOf("b", 1)], 1).size, 0);
  t.equal(
    leftOut(
      Array.from({ length: 500 }, (_, i) => heavyOf(`user-${i}`, 0.05)),
      0.006,
    ).size,
    0,
    "ordinary choices beside a device's run",
  );
  t.equal(
    leftOut([{ ...heavyOf("a", 6), rows: 8 }, heavyOf("b", 1)], 1).size,
    0,
    "a search of eight beams, each in less than a row's time",
  );
  t.end();
});

/** A stream of tenant "victim" beside `others` that have all other rows: milliseconds between two of its tokens, at most and on average, the first ones left out, and everybody's tokens. */
async function beside(
  others: Partial<EngineRequest>,
  choosing: number,
): Promise<{ longest: number; mean: number; tokens: number[][]; repeats: number }> {
  let now = 0;
  const runner = new FakeRunner(SLOTS);
  const decode = runner.decode.bind(runner);
  runner.decode = (ids, positions) => ((now += RUN * (ids.length / SLOTS)), decode(ids, positions));
  const engine = new Engine({
    runner,
    maxQueue: 100,
    prefillChunk: 64,
    observer: new CountingObserver(),
    now: () => now,
  });
  const rows = others.beams?.numBeams ?? 1;
  const heavies = Array.from({ length: ((SLOTS - 1) / rows) | 0 }, (_, i) => {
    const request = engineRequest({ tenant: "heavy", promptIds: Int32Array.of(i + 1), maxNewTokens: 60, ...others });
    return new Recording(
      engine,
      request,
      others.beams
        ? { onBeamStep: () => (now += choosing * rows) }
        : { onToken: () => ((now += choosing), "continue") },
    );
  });
  const times: number[] = [];
  const victim = new Recording(
    engine,
    engineRequest({ tenant: "victim", promptIds: Int32Array.of(50), maxNewTokens: 60 }),
    { onToken: () => (times.push(now), "continue") },
  );
  await Promise.all([victim, ...heavies].map(({ ended }) => ended));
  t.same(runner.misuses, []);
  // How long the first ones of a request take to be chosen is not known beforehand.
  const gaps = times
    .slice(1)
    .map((time, i) => time - times[i]!)
    .slice(12);
  return {
    longest: Math.max(...gaps),
    mean: gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length,
    tokens: [victim, ...heavies].map(({ ids }) => ids[0]!),
    repeats: runner.repeats,
  };
}

t.test(
  "beside seven tenants with costly choices a stream's step takes at most two runs, and no token changes",
  async (t) => {
    const [plain, heavy] = [await beside({}, 0), await beside({}, HEAVY)];
    t.equal(plain.repeats, 0);
    t.same(plain.tokens[0], oracle(engineRequest({ promptIds: Int32Array.of(50), maxNewTokens: 60 }), 0));
    t.ok(heavy.mean <= 2 * RUN, `${heavy.mean} ms`);
    // What is chosen after a token in one step, and before it in the next one.
    t.ok(heavy.longest <= 3 * RUN, `${heavy.longest} ms`);
    t.ok(heavy.repeats > 0);
    t.same(heavy.tokens, plain.tokens);
  },
);

t.test("the same holds beside beam searches", async (t) => {
  const beams = { numBeams: 2, lengthPenalty: 1, earlyStopping: false };
  const [plain, heavy] = [await beside({ beams }, 0), await beside({ beams }, HEAVY)];
  t.ok(heavy.mean <= RUN + 2 * HEAVY, `${heavy.mean} ms`);
  t.ok(heavy.repeats > 0);
  t.same(heavy.tokens, plain.tokens);
});
