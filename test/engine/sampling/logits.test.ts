import { readFile } from "node:fs/promises";
import t from "tap";
import { FullScores } from "../../../src/engine/sampling/full-logits.ts";
import { LogitsProcessors } from "../../../src/engine/sampling/processors.ts";
import { Sampler } from "../../../src/engine/sampling/sampler.ts";
import { WarpedTokens } from "../../../src/engine/sampling/warped-tokens.ts";
import { uniform } from "../../../src/engine/sampling/random.ts";
import { GREEDY, plainDistribution, stepOutput } from "./sampler-fixture.ts";

interface Golden {
  readonly logits: readonly (readonly number[])[];
  readonly cases: readonly {
    readonly logits: number;
    readonly prompt_ids: readonly number[];
    readonly generated_ids: readonly number[];
    readonly parameters: Readonly<Record<string, number>>;
    readonly survivors: readonly (readonly [number, number])[];
    /** Where top_p cuts through equal logits: how many of these stay is defined, which is not. */
    readonly tied?: { readonly ids: readonly number[]; readonly survive: number; readonly probability: number };
  }[];
}

const golden = JSON.parse(await readFile("test/golden/warpers.json", "utf8")) as Golden;

const cases = golden.cases.map(({ logits, prompt_ids, generated_ids, parameters, survivors: sure, tied }) => {
  // Our choice among the tied: the lowest ids.
  const lucky = (tied?.ids ?? []).toSorted((a, b) => a - b).slice(0, tied?.survive);
  const survivors = [...sure, ...lucky.map((id) => [id, tied?.probability ?? 0] as const)].sort(([a], [b]) => a - b);
  const row = Float32Array.from(golden.logits[logits] ?? []);
  const params = {
    ...GREEDY,
    doSample: true,
    temperature: parameters["temperature"] ?? 1,
    topK: parameters["top_k"] ?? 50,
    topP: parameters["top_p"] ?? 1,
    minP: parameters["min_p"] ?? 0,
    repetitionPenalty: parameters["repetition_penalty"] ?? 1,
    minNewTokens: Math.max(0, (parameters["min_new_tokens"] ?? 0) - generated_ids.length),
  };
  const ids = [...prompt_ids, ...generated_ids];
  const eosIds = [row.length - 1];
  return { name: JSON.stringify({ logits, ...parameters }), row, params, ids, eosIds, survivors };
});

t.test("the tokens left of a row are those that transformers leaves", async (t) => {
  for (const { name, row, params, ids, eosIds, survivors } of cases) {
    const check = (what: string, actual: readonly { id: number; p: number }[]): void => {
      const sorted = actual.toSorted((a, b) => a.id - b.id);
      const same =
        sorted.length === survivors.length &&
        survivors.every(([id, p], i) => sorted[i]?.id === id && Math.abs(sorted[i].p - p) < 1e-6);
      if (!same) t.same(sorted, survivors, `${what} ${name}`);
    };
    check("plain", plainDistribution(row, params, { prompt: ids, generated: [], eosIds }));

    const full = new FullScores(row.length);
    full.load(row, new LogitsProcessors(params, Int32Array.from(ids), eosIds), params.temperature);
    for (const top of params.topK > 0 ? [false, true] : [false]) {
      const list = new WarpedTokens(row.length);
      if (top) full.listTop(params.topK, list);
      else full.listAll(list);
      t.ok(list.warp(params));
      const weights = [...list.weights.subarray(0, list.length)];
      const mass = weights.reduce((a, b) => a + b, 0);
      check(
        top ? "top" : "all",
        weights.map((weight, i) => ({ id: list.ids[i]!, p: weight / mass })),
      );
    }
  }
});

t.test("the sampler draws from the tokens that transformers leaves, with any number of candidates", async (t) => {
  let draws = 0;
  for (const { name, row, params, ids, eosIds, survivors } of cases) {
    const order = survivors
      .toSorted(([a, p], [b, q]) => row[b]! - row[a]! || q - p || a - b)
      .toSorted(([a, p], [b, q]) => q - p || a - b);
    for (const candidates of [1, 4, 16, row.length]) {
      const output = stepOutput([row], candidates);
      for (let seed = 0; seed < 40; seed++) {
        const { id } = new Sampler(params, seed, 0, Int32Array.from(ids), eosIds).next(output, 0, 0);
        const u = uniform(seed, 0, 0);
        let below = 0;
        let expected = -1;
        for (const [token, p] of order) {
          if (u < below + p) {
            // The golden probabilities have 8 digits: no claim at a border.
            if (u - below > 1e-5 && below + p - u > 1e-5) expected = token;
            break;
          }
          below += p;
        }
        draws++;
        if (!survivors.some(([token]) => token === id)) t.fail(`${name}: ${id} does not survive`);
        if (expected !== -1 && id !== expected && row[id] !== row[expected])
          t.equal(id, expected, `${name}, seed ${seed}, ${candidates} candidates`);
      }
    }
  }
  t.ok(draws > 30_000);
});
