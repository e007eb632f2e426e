import t from "tap";
import { chooseToken } from "../../../src/engine/sampling/choose.ts";
import { LogitsProcessors } from "../../../src/engine/sampling/processors.ts";
import { philox, uniform } from "../../../src/engine/sampling/random.ts";
import type { SamplingParams } from "../../../src/engine/request.ts";
import { Row } from "../../../src/engine/sampling/logits-row.ts";
import { Sampler } from "../../../src/engine/sampling/sampler.ts";
import { effort } from "../../support/effort.ts";
import { randomNumbers } from "../../text/support.ts";
import { GREEDY, plainDistribution, stepOutput } from "./sampler-fixture.ts";

const NO_IDS = new Int32Array(0);
const NO_WARPERS = {
  temperature: 1,
  topH: null,
  topK: 1,
  topP: 1,
  minP: 0,
  typicalP: 1,
  epsilonCutoff: 0,
  etaCutoff: 0,
};
const FORCED = [5, 3, 9];
const SAMPLE: SamplingParams = { ...GREEDY, doSample: true };

/** Roughly normal logits; some rows have many ties or are flat. */
function randomRow(random: () => number, size: number): Float32Array {
  const scale = [0.5, 3, 10][Math.floor(random() * 3)] ?? 1;
  const grid = random() < 0.4;
  const shift = random() < 0.5 ? -60 : 0;
  return Float32Array.from({ length: size }, () => {
    const value = (random() + random() + random() - 1.5) * scale + shift;
    return grid ? Math.round(value * 2) / 2 : value;
  });
}

t.test("greedy takes the first candidate, the lowest id on ties, without reading all logits", async (t) => {
  const output = stepOutput([Float32Array.of(1, 5, 5, 0), Float32Array.of(-3, -1, -2, -1)], 2, 3);
  const sampler = new Sampler(GREEDY, 0, 0, NO_IDS, []);
  t.equal(sampler.next(output, 0, 0).id, 1);
  t.equal(sampler.next(output, 1, 0).id, 1);
  t.equal(output.reads, 0);
});

t.test("log probabilities are the raw model's", async (t) => {
  const row = Float32Array.of(0, 1, 2, 3, -1);
  const output = stepOutput([row], 2);
  const sum = Math.log(row.reduce((total, logit) => total + Math.exp(logit), 0));
  const close = (a: number, b: number): boolean => Math.abs(a - b) < 1e-6;
  const first = new Sampler(GREEDY, 0, 0, NO_IDS, []).next(output, 0, 2);
  t.ok(close(first.logprob, 3 - sum));
  t.same(
    first.top.map(({ id }) => id),
    [3, 2],
  );
  t.ok(first.top.every(({ id, logprob }) => close(logprob, row[id]! - sum)));
  const penalised = new Sampler({ ...GREEDY, repetitionPenalty: 100 }, 0, 0, Int32Array.of(3, 2), []).next(
    output,
    0,
    1,
  );
  t.equal(penalised.id, 1, "no candidate, so its logit comes from all of them");
  t.ok(close(penalised.logprob, 1 - sum));
  t.same(penalised.top[0]?.id, 3, "the top is not penalised");
  const certain = new Sampler(GREEDY, 0, 0, NO_IDS, []).next(stepOutput([Float32Array.of(1e30, 0)], 1), 0, 1);
  t.equal(certain.logprob, 0);
});

t.test("the fast and the exact path choose the same token for any logits and parameters", async (t) => {
  const random = randomNumbers(5);
  const pick = <T>(...values: T[]): T => values[Math.floor(random() * values.length)]!;
  const more = (size: number, best: number): Partial<SamplingParams> => ({
    sequenceBias: pick(
      [],
      [],
      [
        { ids: [Math.floor(random() * size)], bias: 2 },
        { ids: [1, 2], bias: -3 },
        { ids: [best, 4], bias: 5 },
      ],
    ),
    suppressIds: pick([], [], [Math.floor(random() * size), best]).filter((id) => !FORCED.includes(id)),
    beginSuppressIds: pick([], [], [best]),
    forcedBosId: pick(null, null, FORCED[0]!),
    forcedLast: pick(null, null, { ids: FORCED.slice(1), index: 2 }),
    exponentialDecay: pick(null, null, { start: 0, factor: 1.3 }, { start: 1, factor: 0.7 }),
    topH: pick(null, null, null, 0.3, 0.9),
  });
  let withoutAll = 0;
  const rounds = effort({ short: 500, long: 3000 });
  for (let round = 0; round < rounds; round++) {
    const size = pick(20, 70, 300);
    const row = randomRow(random, size);
    const params: SamplingParams = {
      ...GREEDY,
      doSample: random() < 0.8,
      temperature: pick(1, 1, 0.7, 1.5, 0.01, 50),
      topK: pick(0, 0, 1, 5, 50),
      topP: pick(1, 1, 0.1, 0.5, 0.9, 0.99),
      minP: pick(0, 0, 0.05, 0.5, 1),
      typicalP: pick(1, 1, 1, 0.2, 0.9),
      epsilonCutoff: pick(0, 0, 0, 0.02),
      etaCutoff: pick(0, 0, 0, 0.05),
      repetitionPenalty: pick(1, 1, 1.3, 0.8),
      frequencyPenalty: pick(0, 0, 0.5, -1),
      presencePenalty: pick(0, 0, 1.5, -0.7),
      noRepeatNgramSize: pick(0, 0, 1, 2),
      badWords: pick([], [], [[Math.floor(random() * size)], [1, 2], [3, 4, 5]]),
      logitBias: new Map(
        pick(
          [],
          [],
          [
            [Math.floor(random() * size), -100],
            [Math.floor(random() * size), 5],
          ],
        ),
      ),
      minNewTokens: pick(0, 0, 3),
      ...(round % 3 === 0 ? more(size, row.indexOf(Math.max(...row))) : {}),
    };
    const eosIds = [Math.floor(random() * size)];
    const prompt = Int32Array.from({ length: pick(1, 5) }, () => Math.floor(random() * size));
    const few = stepOutput([row], pick(1, 2, 8, 16, 20));
    const one = new Sampler(params, round, 1, prompt, eosIds);
    const two = new Sampler(params, round, 1, prompt, eosIds);
    const generated: number[] = [];
    for (let step = 0; step < 4; step++) {
      const before = few.reads;
      const fast = one.next(few, 0, 0).id;
      if (few.reads === before) withoutAll++;
      // One candidate decides nothing but plain greedy.
      const slow = two.next(stepOutput([row], 1), 0, 0).id;
      const survivors = plainDistribution(row, params.doSample ? params : { ...params, ...NO_WARPERS }, {
        prompt: [...prompt],
        generated,
        eosIds,
      });
      const u = uniform(round, 1, step);
      let sum = 0;
      const drawn = survivors.find(({ p }) => (sum += p) > u);
      const expected = params.doSample ? drawn?.id : survivors[0]?.id;
      const atBorder =
        params.doSample &&
        survivors.some((_, i) => Math.abs(survivors.slice(0, i + 1).reduce((total, { p }) => total + p, 0) - u) < 1e-9);
      if (fast !== slow || (fast !== expected && !atBorder)) {
        t.same({ fast, slow }, { fast: expected, slow: expected }, JSON.stringify({ round, step, params }));
        return;
      }
      generated.push(fast);
    }
  }
  // Where top_h or a raised token is wanted it takes more than the candidates.
  t.ok(withoutAll > rounds / 4, `${withoutAll} of ${4 * rounds} tokens were chosen without all logits`);
});

t.test(
  "with a large vocabulary, draws without top_k or with a large one equal draws from all logits sorted",
  async (t) => {
    const random = randomNumbers(9);
    const history = { prompt: [1, 2, 3, 2, 700], generated: [], eosIds: [] };
    const settings: Partial<SamplingParams>[] = [
      {},
      { temperature: 1.5 },
      { temperature: 0.6 },
      { topP: 0.9 },
      { topP: 0.3, temperature: 2 },
      { topP: 0.999 },
      { minP: 0.01, temperature: 3 },
      { typicalP: 0.8 },
      { typicalP: 0.3, temperature: 1.3 },
      { epsilonCutoff: 0.0005 },
      { etaCutoff: 0.001 },
      { topP: 0.8, typicalP: 0.7, minP: 0.001 },
      { topK: 300 },
      { topK: 1000, topP: 0.9 },
      { repetitionPenalty: 1.5, topP: 0.9 },
      { repetitionPenalty: 0.5, temperature: 0.8 },
      {
        logitBias: new Map([
          [5, 7],
          [6, -3],
        ]),
        topP: 0.95,
      },
    ];
    let undecided = 0;
    for (let round = 0; round < effort({ short: 4, long: 12 }); round++) {
      const row = randomRow(random, 3000);
      const output = stepOutput([row], 64);
      for (const given of settings) {
        const params = { ...SAMPLE, topK: 0, ...given };
        const expected = plainDistribution(row, params, history);
        const processors = new LogitsProcessors(params, Int32Array.from(history.prompt), []);
        for (let i = 0; i < 25; i++) {
          const u = (i + random()) / 25;
          let sum = 0;
          const drawn = expected.find(({ p }) => (sum += p) > u);
          const atBorder = Math.abs(sum - u) < 1e-9 || Math.abs(sum - (drawn?.p ?? 0) - u) < 1e-9;
          if (atBorder) undecided++;
          else if (chooseToken(new Row(output, 0), processors, params, u) !== drawn?.id)
            return t.fail(JSON.stringify({ round, u, given }));
        }
      }
    }
    t.ok(undecided < 10, `${undecided} numbers too near to a border`);
  },
);

t.test("a penalised candidate does not precede tokens outside the candidates", async (t) => {
  // The penalty moves candidates 1 and 2 from the first places to below token 4, which is no candidate.
  const row = Float32Array.of(10, 10.269, 10.269, 9.84, 9.83, -50, -50);
  const params: SamplingParams = { ...SAMPLE, topK: 0, repetitionPenalty: 1.05 };
  const seen = Int32Array.of(1, 2);
  const drawn = (seed: number, candidates: number): number =>
    new Sampler(params, seed, 0, seen, []).next(stepOutput([row], candidates), 0, 0).id;
  const seeds = [...Array(5000).keys()];
  t.same(
    seeds.filter((seed) => drawn(seed, 4) !== drawn(seed, 1)),
    [],
  );
});

t.test("tokens are drawn as often as they are likely (chi-square)", async (t) => {
  const row = randomRow(randomNumbers(6), 70);
  const output = stepOutput([row], 16);
  for (const [name, params] of Object.entries({
    plain: { ...SAMPLE, topK: 0 },
    warm: { ...SAMPLE, topK: 0, temperature: 2 },
    default: SAMPLE,
    few: { ...SAMPLE, topK: 7 },
    nucleus: { ...SAMPLE, topK: 0, topP: 0.8 },
    minP: { ...SAMPLE, topK: 0, minP: 0.1 },
    typical: { ...SAMPLE, topK: 0, typicalP: 0.6 },
    cutoffs: { ...SAMPLE, topK: 0, epsilonCutoff: 0.005, etaCutoff: 0.01 },
    biased: {
      ...SAMPLE,
      topK: 20,
      logitBias: new Map([
        [3, 4],
        [9, -100],
        [11, -0.5],
      ]),
      badWords: [[5]],
    },
  })) {
    const expected = plainDistribution(row, params, { prompt: [], generated: [], eosIds: [] });
    const counts = new Map<number, number>();
    const draws = effort({ short: 5000, long: 20_000 });
    const sampler = new Sampler(params, 42, 0, NO_IDS, []);
    for (let i = 0; i < draws; i++) {
      const { id } = sampler.next(output, 0, 0);
      counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    t.same(
      [...counts.keys()].filter((id) => !expected.some((token) => token.id === id)),
      [],
      `${name}: no token that was cut off`,
    );
    const likely = expected.filter(({ p }) => p * draws >= 5);
    const chiSquare = likely.reduce(
      (sum, { id, p }) => sum + ((counts.get(id) ?? 0) - p * draws) ** 2 / (p * draws),
      0,
    );
    // Mean n, standard deviation sqrt(2 n).
    t.ok(
      chiSquare < likely.length + 4 * Math.sqrt(2 * likely.length),
      `${name}: ${chiSquare.toFixed(1)} for ${likely.length} tokens`,
    );
  }
});

t.test("a stream depends on seed, choice and index alone", async (t) => {
  const rows = [randomRow(randomNumbers(7), 70), randomRow(randomNumbers(8), 70)];
  const run = (seed: number, choice: number, row: number, room: number): number[] => {
    const output = stepOutput(rows, 16, room);
    const sampler = new Sampler({ ...SAMPLE, temperature: 3 }, seed, choice, NO_IDS, []);
    return Array.from({ length: 50 }, () => sampler.next(output, row, 0).id);
  };
  t.same(run(1, 0, 1, 0), run(1, 0, 1, 9));
  t.notSame(run(1, 0, 1, 0), run(2, 0, 1, 0));
  t.notSame(run(1, 0, 1, 0), run(1, 1, 1, 0));
});

t.test("min_new_tokens masks every EOS id until it is reached", async (t) => {
  const output = stepOutput([Float32Array.of(9, 8, 7, 6, 5)], 2);
  const sampler = new Sampler({ ...GREEDY, minNewTokens: 2 }, 0, 0, NO_IDS, [0, 1]);
  t.same(
    [0, 0, 0].map(() => sampler.next(output, 0, 0).id),
    [2, 2, 0],
  );
  const fast = new Sampler({ ...GREEDY, minNewTokens: 1 }, 0, 0, NO_IDS, [0]);
  const before = output.reads;
  t.equal(fast.next(output, 0, 0).id, 1, "the second candidate, though it is also the last");
  t.ok(output.reads >= before);
});

t.test("non-finite logits fail only their sequence", async (t) => {
  const good = Float32Array.of(1, 2, 3, 4);
  for (const bad of [
    Float32Array.of(NaN, 1, 2, 3),
    Float32Array.of(Infinity, 1, 2, 3),
    new Float32Array(4).fill(-Infinity),
    new Float32Array(4).fill(NaN),
  ]) {
    const output = stepOutput([bad, good], 2);
    for (const params of [GREEDY, SAMPLE, { ...SAMPLE, topK: 0, repetitionPenalty: 1.1 }]) {
      const failing = new Sampler(params, 0, 0, NO_IDS, []);
      t.throws(() => failing.next(output, 0, 1), { name: "PrefixdError", code: "model_failed" });
      t.ok(new Sampler(params, 0, 0, NO_IDS, []).next(output, 1, 1).id >= 0);
    }
  }
  // A runner whose candidates and sum hide it.
  const hidden = stepOutput([good], 2);
  hidden.logits = () => Float32Array.of(1, NaN, 3, 4);
  t.throws(() => new Sampler({ ...SAMPLE, topK: 0, temperature: 2 }, 0, 0, NO_IDS, []).next(hidden, 0, 0), {
    code: "model_failed",
  });
  const only = stepOutput([good], 2);
  t.throws(
    () => new Sampler({ ...SAMPLE, minNewTokens: 1 }, 0, 0, NO_IDS, [0, 1, 2, 3]).next(only, 0, 0),
    { code: "invalid_parameter" },
    "nothing may come",
  );
});

t.test("extreme logits stay in range", async (t) => {
  const row = Float32Array.of(-3e38, 3e38, 0, -Infinity, 3e38);
  for (const temperature of [1e-45, 1e-30, 1, 1e30]) {
    for (const topP of [0, 1e-9, 0.5, 1]) {
      for (const repetitionPenalty of [1, 1e-30, 1e30]) {
        const output = stepOutput([row], 2);
        output.logSumExp[0] = 3e38;
        for (let seed = 0; seed < 20; seed++) {
          const { id, logprob } = new Sampler(
            { ...SAMPLE, topK: 0, temperature, topP, repetitionPenalty },
            seed,
            0,
            Int32Array.of(1),
            [],
          ).next(output, 0, 2);
          if (!(id >= 0 && id < 5 && id !== 3) || Number.isNaN(logprob)) t.fail(`${id} ${logprob}`);
        }
      }
    }
  }
  const lowered = { ...SAMPLE, temperature: 1e-39, repetitionPenalty: 2, topK: 0 };
  t.equal(
    new Sampler(lowered, 1, 0, Int32Array.of(0), []).next(stepOutput([Float32Array.of(-30, -40, -50)], 1), 0, 0).id,
    1,
    "all become -Infinity, and no candidate is the best",
  );
  for (const topK of [0, 1, 2, 3, 9]) {
    const frozen = stepOutput([Float32Array.of(-1, 0, -2, -3)], 3);
    t.equal(
      new Sampler({ ...SAMPLE, topK, temperature: 1e-39 }, 8, 0, NO_IDS, []).next(frozen, 0, 0).id,
      1,
      "all others become -Infinity",
    );
  }
  t.equal(
    new Sampler({ ...SAMPLE, temperature: 1e-6 }, 3, 0, NO_IDS, []).next(
      stepOutput([Float32Array.of(1, 2, 3)], 2),
      0,
      0,
    ).id,
    2,
    "a cold sampler is greedy",
  );
});

t.test("Philox gives the known answers of Random123", async (t) => {
  const hex = (words: readonly number[]): string => words.map((word) => word.toString(16).padStart(8, "0")).join(" ");
  const ones = 0xffffffff;
  t.equal(hex(philox([0, 0, 0, 0], [0, 0])), "6627e8d5 e169c58d bc57ac4c 9b00dbd8");
  t.equal(hex(philox([ones, ones, ones, ones], [ones, ones])), "408f276d 41c83b0e a20bc7c6 6d5451fd");
  t.equal(
    hex(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])),
    "d16cfe09 94fdcceb 5001e420 24126ea1",
  );
});

t.test("uniform numbers are in [0, 1) and uniform", async (t) => {
  const draws = Array.from({ length: 20_000 }, (_, i) => uniform(123, 4, i));
  t.ok(draws.every((u) => u >= 0 && u < 1));
  const mean = draws.reduce((a, b) => a + b, 0) / draws.length;
  t.ok(Math.abs(mean - 0.5) < 0.01, String(mean));
  t.equal(new Set(draws).size, draws.length);
});
