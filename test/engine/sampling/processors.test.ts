/** Processors and warpers against transformers' own, on fixed logits and histories (test/golden/processors.json, combinations.json). */
import { readFile } from "node:fs/promises";
import t from "tap";
import { chooseToken } from "../../../src/engine/sampling/choose.ts";
import { LogitsProcessors } from "../../../src/engine/sampling/processors.ts";
import { drawContinuations } from "../../../src/engine/beams/draws.ts";
import type { SamplingParams } from "../../../src/engine/request.ts";
import { Row } from "../../../src/engine/sampling/logits-row.ts";
import { topScores } from "../../../src/engine/sampling/top-scores.ts";
import { type GoldenParameters, samplingOf } from "../../support/golden-parameters.ts";
import { GREEDY, type History, plainDistribution, plainScores, stepOutput } from "./sampler-fixture.ts";

type Pairs = readonly (readonly [number, number])[];

interface Golden {
  readonly logits: readonly (readonly number[])[];
  readonly cases: readonly {
    readonly logits: number;
    readonly prompt_ids: readonly number[];
    readonly generated_ids: readonly number[];
    readonly eos_ids?: readonly number[];
    readonly parameters: GoldenParameters & { readonly log_softmax?: boolean };
    /** As beams have it: log-softmax first, and warpers that leave a token more than there are EOS ids. */
    readonly beams?: boolean;
    readonly survivors?: Pairs;
    readonly best?: Pairs;
  }[];
}

/** Of combinations.json. */
const NEW_TOKENS = 12;

const cases = (
  await Promise.all(
    ["processors", "combinations"].map(async (file) =>
      casesOf(JSON.parse(await readFile(`test/golden/${file}.json`, "utf8")) as Golden),
    ),
  )
).flat();

interface Case {
  readonly name: string;
  readonly row: Float32Array;
  readonly params: SamplingParams;
  readonly history: History;
  readonly processors: LogitsProcessors;
  readonly onLogprobs: boolean;
  readonly keep: number;
  readonly survivors: Pairs | undefined;
  readonly best: Pairs | undefined;
}

function casesOf(golden: Golden): Case[] {
  return golden.cases.map(
    ({ logits, prompt_ids: prompt, generated_ids: generated, eos_ids: ends, parameters, beams, survivors, best }) => {
      const row = Float32Array.from(golden.logits[logits]!);
      const eosIds = ends ?? [row.length - 1];
      const params: SamplingParams = samplingOf(parameters, NEW_TOKENS);
      const processors = new LogitsProcessors(params, Int32Array.from(prompt), eosIds);
      for (const id of generated) processors.push(id);
      const name = JSON.stringify({ logits, prompt, generated, ...parameters });
      return {
        name,
        row,
        params,
        history: { prompt, generated, eosIds },
        processors,
        onLogprobs: beams ?? parameters.log_softmax ?? false,
        keep: beams === true ? eosIds.length + 1 : 1,
        survivors,
        best,
      };
    },
  );
}

const greedy = cases.filter(({ best, survivors }) => best !== undefined && survivors === undefined);
const sampled = cases.filter(({ survivors, onLogprobs }) => survivors !== undefined && !onLogprobs);
const sampledBeams = cases.filter(({ survivors, onLogprobs }) => survivors !== undefined && onLogprobs);

const candidateCounts = (row: Float32Array): number[] => [1, 4, 16, row.length - 1];

t.test("scores equal transformers', for logits and for log probabilities", async (t) => {
  t.ok(greedy.length > 100);
  for (const { name, row, params, history, processors, onLogprobs, best } of greedy) {
    const { logSumExp } = new Row(stepOutput([row], 1), 0);
    const scores = onLogprobs ? row.map((logit) => logit - logSumExp) : row.slice();
    const plain = plainScores(scores, params, history);
    const single = scores.map((score, id) => processors.score(id, score));
    processors.apply(scores);
    t.same(scores, plain, `${name}: apply`);
    t.same(scores, single, `${name}: one by one`);
    if (params.renormalize) continue;
    // The log-softmax of torch differs by rounding.
    const tolerance = onLogprobs ? 2e-5 : 0;
    for (const [id, score] of best!)
      if (Math.abs(scores[id]! - Math.fround(score)) > tolerance * (1 + Math.abs(score)))
        t.equal(scores[id], score, `${name}: token ${id}`);
  }
});

t.test("greedy choices and beams' best log probabilities are right with any number of candidates", async (t) => {
  for (const { name, row, params, processors, onLogprobs, best } of greedy) {
    for (const candidates of candidateCounts(row)) {
      const from = new Row(stepOutput([row], candidates), 0);
      if (!onLogprobs) {
        t.equal(
          row[chooseToken(from, processors, params, 0)],
          row[best![0]![0]],
          `${name} with ${candidates} candidates`,
        );
        continue;
      }
      const top = topScores(from, processors, Math.min(4, best!.length), params.renormalize);
      t.same(
        top.map(({ id }) => id),
        best!.slice(0, 4).map(([id]) => id),
        `${name} with ${candidates} candidates`,
      );
      t.ok(top.every(({ score }, i) => Math.abs(score - best![i]![1]) < 2e-5 * (1 + Math.abs(score))));
    }
  }
});

t.test("draws follow what transformers leaves of a row, with any number of candidates", async (t) => {
  t.ok(sampled.length > 150);
  for (const { name, row, params, history, processors, survivors } of sampled) {
    const plain = plainDistribution(row, params, history);
    const expected = new Map(survivors);
    const same =
      plain.length === expected.size && plain.every(({ id, p }) => Math.abs((expected.get(id) ?? 0) - p) < 1e-6);
    if (!same)
      t.same(
        plain.map(({ id, p }) => [id, p]),
        survivors,
        name,
      );
    for (const candidates of candidateCounts(row)) {
      const from = new Row(stepOutput([row], candidates), 0);
      for (let i = 0; i < 60; i++) {
        const u = (i + 0.5) / 60;
        let sum = 0;
        const drawn = plain.find(({ p }) => (sum += p) > u);
        const id = chooseToken(from, processors, params, u);
        const atBorder = Math.abs(sum - u) < 1e-6 || Math.abs(sum - (drawn?.p ?? 0) - u) < 1e-6;
        if (id !== drawn?.id && !atBorder) t.equal(id, drawn?.id, `${name} at ${u} with ${candidates} candidates`);
      }
    }
  }
});

t.test("beams draw from what transformers leaves of each, with any number of candidates", async (t) => {
  t.ok(sampledBeams.length > 40);
  const keeping = sampledBeams.filter(
    ({ row, params, history, keep }) =>
      plainDistribution(row, params, history, keep).length > plainDistribution(row, params, history).length,
  );
  t.ok(keeping.length > 5, `${keeping.length} cases keep more than single sequences would`);
  for (const { name, row, params, history, processors, keep, survivors, best } of sampledBeams) {
    for (const candidates of candidateCounts(row)) {
      const beam = { score: -2.5, row: new Row(stepOutput([row], candidates), 0), processors };
      const all = drawContinuations([beam], row.length, params, keep, () => 0);
      t.same(
        all.map(({ id }) => id).sort((a, b) => a - b),
        survivors!.map(([id]) => id),
        `${name} with ${candidates} candidates`,
      );
      const worst = best!.reduce(
        (most, [id, score]) =>
          Math.max(most, Math.abs(all.find((one) => one.id === id)!.score + 2.5 - score) / (1 + Math.abs(score))),
        0,
      );
      t.ok(worst < 2e-5, `${name}: scores off by ${worst}`);
      const plain = plainDistribution(
        row.map((logit) => logit - beam.row.logSumExp),
        params,
        history,
        keep,
      );
      for (let i = 0; i < 40; i++) {
        const u = (i + 0.5) / 40;
        let sum = 0;
        const drawn = plain.find(({ p }) => (sum += p) > u);
        const [one] = drawContinuations([beam], 1, params, keep, () => u);
        const atBorder = Math.abs(sum - u) < 1e-6 || Math.abs(sum - (drawn?.p ?? 0) - u) < 1e-6;
        if (one?.id !== drawn?.id && !atBorder)
          t.equal(one?.id, drawn?.id, `${name} at ${u} with ${candidates} candidates`);
      }
    }
  }
});

t.test("exactly the changed ids are visited, once each", async (t) => {
  for (const { name, row, processors } of cases.filter((one) => one.processors.forced === null)) {
    const visited: number[] = [];
    processors.forEachChanged((id) => visited.push(id));
    t.equal(new Set(visited).size, visited.length, `${name}: once`);
    const changed = Array.from(row.keys()).filter((id) => processors.score(id, row[id]!) !== row[id]);
    t.same(
      changed.filter((id) => !visited.includes(id)),
      [],
      `${name}: all`,
    );
    if (!processors.mayRaise)
      t.same(
        changed.filter((id) => processors.score(id, row[id]!) > row[id]!),
        [],
        `${name}: only lower`,
      );
    t.equal(processors.idle, visited.length === 0, `${name}: idle`);
  }
});

t.test("forks are independent", async (t) => {
  const params = {
    ...GREEDY,
    noRepeatNgramSize: 2,
    frequencyPenalty: 1,
    repetitionPenalty: 2,
    badWords: [[7, 8]],
    minNewTokens: 2,
  };
  const scoresOf = (processors: LogitsProcessors): Float32Array => {
    const scores = new Float32Array(10).fill(4);
    processors.apply(scores);
    return scores;
  };
  const made = (...ids: number[]): LogitsProcessors => {
    const processors = new LogitsProcessors(params, Int32Array.of(1, 2, 3), [9]);
    for (const id of ids) processors.push(id);
    return processors;
  };
  const one = made(5);
  const two = one.fork();
  t.same(scoresOf(two), scoresOf(one));
  t.equal(two.generated, 1);
  one.push(7);
  two.push(1);
  t.same(scoresOf(one), scoresOf(made(5, 7)));
  t.same(scoresOf(two), scoresOf(made(5, 1)));
  t.notSame(scoresOf(one), scoresOf(two));
});

t.test("an EOS id is not a bad word; with EOS ignored it is an ordinary id", async (t) => {
  const params = { ...GREEDY, badWords: [[3], [2]] };
  t.equal(new LogitsProcessors(params, Int32Array.of(1), [3]).score(3, 1), 1);
  t.equal(new LogitsProcessors(params, Int32Array.of(1), []).score(3, 1), -Infinity);
  t.equal(new LogitsProcessors(params, Int32Array.of(1), [3]).score(2, 1), -Infinity);
});

t.test("exponential decay keeps a forbidden EOS forbidden, and scores finite", async (t) => {
  const grown = (params: Partial<SamplingParams>, steps: number): number => {
    const processors = new LogitsProcessors(
      { ...GREEDY, exponentialDecay: { start: 0, factor: 100 }, ...params },
      Int32Array.of(1, 2),
      [3],
    );
    for (let step = 0; step < steps; step++) processors.push(5);
    return processors.score(3, -2);
  };
  t.equal(grown({}, 0), -2);
  t.equal(grown({}, 1), 196);
  t.equal(grown({}, 300), 1e30);
  t.equal(grown({ minNewTokens: 9 }, 4), -Infinity);
  t.equal(grown({ suppressIds: [3] }, 4), -Infinity);
  const zero = new LogitsProcessors({ ...GREEDY, exponentialDecay: { start: 0, factor: 100 } }, Int32Array.of(1), [3]);
  for (let step = 0; step < 300; step++) zero.push(5);
  t.equal(zero.score(3, 0), 0, "of nothing it makes nothing");
});

t.test("begin_suppress_tokens applies to the token after a forced first one", async (t) => {
  const params = { ...GREEDY, forcedBosId: 4, beginSuppressIds: [6], badWords: [[4]] };
  const scores = (prompt: number[], ...ids: number[]): Float32Array => {
    const processors = new LogitsProcessors(params, Int32Array.from(prompt), []);
    for (const id of ids) processors.push(id);
    const row = new Float32Array(8).fill(1);
    processors.apply(row);
    return row;
  };
  const forbidden = (row: Float32Array): number[] => [...row.keys()].filter((id) => row[id] === -Infinity);
  t.same(forbidden(scores([1])), [0, 1, 2, 3, 5, 6, 7], "forced although it is a bad word");
  t.same(forbidden(scores([1], 4)), [4, 6]);
  t.same(forbidden(scores([1], 4, 2)), [4]);
  t.same(forbidden(scores([1, 2])), [4, 6], "a longer prompt has its first token");
  t.same(forbidden(scores([1, 2], 3)), [4]);
});
