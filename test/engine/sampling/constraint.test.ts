/** Choosing under a constraint: the few candidates, a list of logits and the whole row give the same token. */
import t from "tap";
import { MaskPending, type TokenConstraint } from "../../../src/engine/constraint.ts";
import { topScores } from "../../../src/engine/sampling/top-scores.ts";
import { chooseToken } from "../../../src/engine/sampling/choose.ts";
import { Row } from "../../../src/engine/sampling/logits-row.ts";
import { LogitsProcessors } from "../../../src/engine/sampling/processors.ts";
import type { SamplingParams } from "../../../src/engine/request.ts";
import { effort } from "../../support/effort.ts";
import { randomNumbers } from "../../text/support.ts";
import { GREEDY, plainDistribution, stepOutput } from "./sampler-fixture.ts";

const SIZE = 300;
const EOS = 299;

/** Allows these ids at every step. `listed`: whether they may be read one by one. */
function allowing(ids: ReadonlySet<number>, { complete = true, listed = true, ready = true } = {}): TokenConstraint {
  return {
    complete,
    final: false,
    ready,
    allows: (id) => ids.has(id),
    after: () => allowing(ids, { complete, listed, ready }),
    work: () => 0,
    mask: { ids: listed ? Int32Array.from(ids).sort() : null, has: (id) => ids.has(id) },
  };
}

t.test("every path chooses the same token, for any logits, parameters and constraint", async (t) => {
  let rounds = 0;
  const random = randomNumbers(21);
  const pick = <T>(...values: T[]): T => values[Math.floor(random() * values.length)]!;
  for (let round = 0; round < effort({ short: 500, long: 15_000 }); round++) {
    const grid = random() < 0.4;
    const logits = Float32Array.from({ length: SIZE }, () => {
      const value = (random() + random() + random() - 1.5) * pick(1, 5, 12);
      return grid ? Math.round(value) : value;
    });
    const share = pick(0.005, 0.05, 0.5, 0.95);
    const ids = new Set(Array.from({ length: SIZE }, (_, id) => id).filter((id) => id !== EOS && random() < share));
    ids.add(Math.floor(random() * EOS));
    const complete = random() < 0.5;
    const params: SamplingParams = {
      ...GREEDY,
      doSample: random() < 0.7,
      temperature: pick(1, 1, 0.5, 1.7),
      topK: pick(0, 1, 3, 50),
      topP: pick(1, 1, 0.9, 0.3),
      minP: pick(0, 0, 0.1),
      typicalP: pick(1, 1, 1, 0.7),
      repetitionPenalty: pick(1, 1, 1.5, 0.8),
      logitBias: pick(
        new Map<number, number>(),
        new Map([
          [[...ids][0]!, 3],
          [7, 5],
        ]),
      ),
    };
    const u = random();
    const prompt = Int32Array.of(3, [...ids].at(-1)!);
    const choose = (candidates: number, listed: boolean): number =>
      chooseToken(
        new Row(stepOutput([logits], candidates), 0),
        new LogitsProcessors(params, prompt, [EOS], allowing(ids, { complete, listed })),
        params,
        u,
      );
    const all = choose(SIZE, false);
    const name = JSON.stringify({ round, ids: [...ids].slice(0, 5), params, u });
    if (!(ids.has(all) || (complete && all === EOS))) t.fail(`${all} may not come: ${name}`);
    for (const candidates of [4, 16, 64])
      for (const listed of [true, false]) {
        const id = choose(candidates, listed);
        if (id !== all) t.fail(`${id} of ${candidates} candidates, ${all} of all: ${name}`);
      }
    // As if all else had no logit at all.
    const masked = logits.map((logit, id) => (ids.has(id) || (complete && id === EOS) ? logit : -Infinity));
    const history = { prompt: [...prompt], generated: [], eosIds: [EOS] };
    const plain = plainDistribution(
      masked,
      { ...params, ...(params.doSample ? {} : { temperature: 1, topK: 1, topP: 1, minP: 0, typicalP: 1 }) },
      history,
    );
    if (!plain.some(({ id }) => id === all)) t.fail(`${all} has no probability: ${name}`);
    if (!params.doSample && plain[0]!.id !== all) t.fail(`${all} is not the best: ${name}`);
    rounds++;
  }
  t.ok(rounds > 0);
});

t.test("sampled tokens have the distribution of the allowed ones", async (t) => {
  const logits = Float32Array.from({ length: SIZE }, (_, id) => Math.sin(id) * 3);
  const ids = new Set([4, 9, 77, 150, 200]);
  const params: SamplingParams = { ...GREEDY, doSample: true, topK: 0, temperature: 1.3, topP: 0.95 };
  const masked = logits.map((logit, id) => (ids.has(id) ? logit : -Infinity));
  let below = 0;
  for (const { id, p } of plainDistribution(masked, params, { prompt: [], generated: [], eosIds: [] })) {
    for (const u of [below + 1e-4, below + p - 1e-4]) {
      const processors = new LogitsProcessors(params, new Int32Array(0), [], allowing(ids, { complete: false }));
      t.equal(chooseToken(new Row(stepOutput([logits], 16), 0), processors, params, u), id);
    }
    below += p;
  }
});

t.test("the mask is requested only where the candidates do not suffice", async (t) => {
  const logits = Float32Array.from({ length: SIZE }, (_, id) => -id);
  const row = (): Row => new Row(stepOutput([logits], 16), 0);
  const choose = (ids: number[], params: SamplingParams): number =>
    chooseToken(
      row(),
      new LogitsProcessors(params, new Int32Array(0), [EOS], allowing(new Set(ids), { complete: false, ready: false })),
      params,
      0.5,
    );
  t.equal(choose([5, 200], GREEDY), 5);
  t.throws(() => choose([200], GREEDY), MaskPending);
  const sampling = { ...GREEDY, doSample: true, topK: 2 };
  t.ok([3, 4].includes(choose([3, 4, 200], sampling)));
  t.throws(() => choose([3, 200], sampling), MaskPending);
  t.throws(() => choose([3, 4, 200], { ...sampling, topK: 0 }), MaskPending);
  const beams = (ids: number[]): unknown =>
    topScores(
      row(),
      new LogitsProcessors(GREEDY, new Int32Array(0), [EOS], allowing(new Set(ids), { ready: false })),
      2,
      false,
    );
  t.match(beams([3, 4]), [{ id: 3 }, { id: 4 }]);
  t.throws(() => beams([3, 200]), MaskPending);
});

t.test("a candidate that cannot be judged yet makes the row wait", async (t) => {
  const logits = Float32Array.from({ length: SIZE }, (_, id) => -id);
  let patience = 3;
  const slow: TokenConstraint = {
    ...allowing(new Set([2, 9]), { complete: false, ready: false }),
    allows: (id) => (patience-- > 0 ? id === 9 : null),
  };
  const choose = (): number => {
    const processors = new LogitsProcessors(GREEDY, new Int32Array(0), [EOS], slow);
    return chooseToken(new Row(stepOutput([logits], 16), 0), processors, GREEDY, 0);
  };
  t.throws(choose, MaskPending);
  patience = 100;
  t.equal(choose(), 9);
});

t.test("EOS comes only where the text may end, whatever its logit", async (t) => {
  const logits = new Float32Array(SIZE).map((_, id) => (id === EOS ? 50 : 0));
  for (const [complete, expected] of [
    [true, EOS],
    [false, 8],
  ] as const) {
    const processors = new LogitsProcessors(GREEDY, new Int32Array(0), [EOS], allowing(new Set([8, 9]), { complete }));
    t.equal(chooseToken(new Row(stepOutput([logits], 16), 0), processors, GREEDY, 0), expected);
  }
});

t.test("processors that forbid every allowed token", async (t) => {
  const params = { ...GREEDY, suppressIds: [8] };
  const processors = new LogitsProcessors(
    params,
    new Int32Array(0),
    [EOS],
    allowing(new Set([8]), { complete: false }),
  );
  t.throws(() => chooseToken(new Row(stepOutput([new Float32Array(SIZE)], 16), 0), processors, params, 0), {
    code: "invalid_parameter",
  });
});
