/** Beam search equals transformers' and PEFT's, with other requests in the same running batch, and to the bit what it gives alone. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import type { EngineRequest } from "../../src/engine/request.ts";
import type { KvTensor } from "../../src/kv.ts";
import { engineRequest, goldenCases, goldenDir, goldenModels, GREEDY, openTestModel, seededRandom, submit, type ChoiceResult } from "../support/model.ts";

const TOLERANCE = 2e-3;

/** tools/reference/README.md describes the fields. */
interface BeamCase {
  readonly adapter: string | null;
  readonly prompt_ids: number[];
  readonly num_beams: number;
  readonly length_penalty: number;
  readonly max_new_tokens: number;
  readonly early_stopping?: boolean | "never";
  readonly min_new_tokens?: number;
  readonly repetition_penalty?: number;
  readonly no_repeat_ngram_size?: number;
  readonly bad_words_ids?: number[][];
  readonly eos_token_ids?: number[];
  readonly sequences: { token_ids: number[]; score: number; token_logprobs?: number[] }[];
}

function beamRequest(item: BeamCase, eosId: number, prefix: KvTensor | null): EngineRequest {
  return engineRequest({
    promptIds: Int32Array.from(item.prompt_ids),
    prefix,
    n: item.num_beams,
    beams: { numBeams: item.num_beams, lengthPenalty: item.length_penalty, earlyStopping: item.early_stopping ?? false },
    maxNewTokens: item.max_new_tokens,
    sampling: {
      ...GREEDY,
      repetitionPenalty: item.repetition_penalty ?? 1,
      noRepeatNgramSize: item.no_repeat_ngram_size ?? 0,
      badWords: item.bad_words_ids ?? [],
      minNewTokens: item.min_new_tokens ?? 0,
    },
    topLogprobs: 2,
    eosIds: item.eos_token_ids ?? [eosId],
  });
}

for (const name of goldenModels()) {
  t.test(name, async (t) => {
    const model = await openTestModel(goldenDir(name), { slots: 32, prefillChunk: 8 });
    t.teardown(() => model.close());
    const { eosId } = goldenCases(name);
    const { cases } = JSON.parse(readFileSync(join(goldenDir(name), "beam-cases.json"), "utf8")) as { cases: BeamCase[] };
    const prefixes = new Map<string | null, KvTensor | null>([[null, null]]);
    for (const { adapter } of cases) if (!prefixes.has(adapter)) prefixes.set(adapter, await model.adapter(join(goldenDir(name), "adapters", adapter!)));
    const requests = cases.map((item) => beamRequest(item, eosId, prefixes.get(item.adapter)!));
    const alone: ChoiceResult[][] = [];
    for (const request of requests) alone.push(await submit(model.engine, request).done);

    t.test("tokens, scores, log probabilities and reasons", async (t) => {
      for (const [index, item] of cases.entries()) {
        const what = JSON.stringify({ ...item, sequences: undefined });
        t.same(alone[index]!.map(({ ids }) => ids), item.sequences.map(({ token_ids }) => token_ids), what);
        const worst = Math.max(...alone[index]!.map(({ score }, rank) => Math.abs(score! - item.sequences[rank]!.score)));
        t.ok(worst < TOLERANCE, `${what}: scores within ${TOLERANCE} (${worst.toExponential(1)})`);
        for (const [rank, { token_ids, token_logprobs }] of item.sequences.entries()) {
          const choice = alone[index]![rank]!;
          t.equal(choice.reason, (item.eos_token_ids ?? [eosId]).includes(token_ids.at(-1)!) ? "eos" : "length");
          t.equal(choice.top.length, token_ids.length);
          for (const [step, logprob] of (token_logprobs ?? []).entries()) {
            if (Math.abs(logprob - choice.logprobs[step]!) > TOLERANCE) t.fail(`${what}: log probability of token ${step} of sequence ${rank}`);
          }
        }
      }
      t.ok(cases.length >= 30, `${cases.length} searches`);
    });

    t.test("beside each other and beside greedy and drawn choices: the same, to the bit", async (t) => {
      const random = seededRandom(5);
      const others = Array.from({ length: 40 }, (_, index) =>
        engineRequest({ promptIds: Int32Array.of(index, index * 3, 7), n: index % 2 === 0 ? 1 : 3, sampling: { ...GREEDY, doSample: index % 2 === 1 }, seed: index, prefix: [...prefixes.values()][index % prefixes.size]!, maxNewTokens: 3 + (index % 9) }),
      );
      const otherAlone: ChoiceResult[][] = [];
      for (const other of others) otherAlone.push(await submit(model.engine, other).done);
      const all = [...requests.map((request, index) => ({ request, expected: alone[index]! })), ...others.map((request, index) => ({ request, expected: otherAlone[index]! }))];
      for (let round = 0; round < 3; round++) {
        const order = all.map((one) => ({ ...one, key: random() })).sort((a, b) => a.key - b.key);
        const results = await Promise.all(order.map(({ request }) => submit(model.engine, request).done));
        const different = results.filter((result, index) => JSON.stringify(result) !== JSON.stringify(order[index]!.expected));
        t.equal(different.length, 0, `${results.length} requests`);
      }
    });
  });
}
