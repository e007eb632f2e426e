/** Beam search matches transformers and PEFT within a mixed batch, and is bit-equal to its results when run alone. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import type { EngineRequest } from "../../src/engine/request.ts";
import type { KvTensor } from "../../src/kv.ts";
import { StopProgress, Stops } from "../../src/text/stop-strings.ts";
import { effort } from "../support/effort.ts";
import { type GoldenParameters, samplingOf } from "../support/golden-parameters.ts";
import {
  engineRequest,
  goldenCases,
  goldenDir,
  goldenModels,
  GREEDY,
  openTestModel,
  seededRandom,
  submit,
  type ChoiceResult,
} from "../support/model.ts";

const TOLERANCE = 2e-3;

/** tools/reference/README.md describes the fields. */
interface BeamCase {
  readonly adapter: string | null;
  readonly prompt_ids: number[];
  readonly num_beams: number;
  readonly length_penalty?: number;
  readonly max_new_tokens: number;
  readonly early_stopping?: boolean | "never";
  readonly eos_token_ids?: number[];
  readonly parameters: GoldenParameters;
  readonly stop?: string[];
  readonly seed?: number;
  readonly sequences: { token_ids: number[]; score: number; stopped?: boolean; token_logprobs?: number[] }[];
}

/** How often sampling in transformers gives these sequences. */
interface DrawCase extends Omit<BeamCase, "sequences"> {
  readonly samples: number;
  readonly outcomes: { readonly sequences: number[][]; readonly count: number }[];
}

function beamCases(name: string): { cases: BeamCase[]; draws: DrawCase[] } {
  type Plain = Omit<BeamCase, "parameters"> &
    Pick<GoldenParameters, "min_new_tokens" | "repetition_penalty" | "no_repeat_ngram_size"> & {
      readonly bad_words_ids?: number[][];
    };
  const read = <T>(file: string): T => JSON.parse(readFileSync(join(goldenDir(name), file), "utf8")) as T;
  const plain = read<{ cases: Plain[] }>("beam-cases.json").cases.map(
    ({
      min_new_tokens = 0,
      repetition_penalty = 1,
      no_repeat_ngram_size = 0,
      bad_words_ids: bad_words = [],
      ...rest
    }): BeamCase => {
      return { ...rest, parameters: { min_new_tokens, repetition_penalty, no_repeat_ngram_size, bad_words } };
    },
  );
  const { cases, draws } = read<{ cases: BeamCase[]; draws: DrawCase[] }>("beam-option-cases.json");
  return { cases: [...plain, ...cases], draws };
}

/** The golden models have no tokenizer: ids map to 256 bytes, then to pairs of a lower- and an upper-case letter. */
function bytesOf(id: number): Uint8Array {
  return id < 256 ? Uint8Array.of(id) : Uint8Array.of(97 + ((id - 256) % 26), 65 + Math.floor((id - 256) / 26));
}

function beamRequest(item: Omit<BeamCase, "sequences">, eosId: number, prefix: KvTensor | null): EngineRequest {
  return engineRequest({
    promptIds: Int32Array.from(item.prompt_ids),
    prefix,
    n: item.num_beams,
    beams: {
      numBeams: item.num_beams,
      lengthPenalty: item.length_penalty ?? 1,
      earlyStopping: item.early_stopping ?? false,
    },
    beamStop: item.stop === undefined ? null : new StopProgress(new Stops(item.stop), bytesOf),
    maxNewTokens: item.max_new_tokens,
    sampling: samplingOf(item.parameters, item.max_new_tokens),
    seed: item.seed ?? 0,
    topLogprobs: 2,
    eosIds: item.eos_token_ids ?? [eosId],
  });
}

for (const name of goldenModels()) {
  t.test(name, async (t) => {
    const model = await openTestModel(goldenDir(name), { slots: 32, prefillChunk: 8 });
    t.teardown(() => model.close());
    const { eosId } = goldenCases(name);
    const { cases, draws } = beamCases(name);
    const prefixes = new Map<string | null, KvTensor | null>([[null, null]]);
    for (const { adapter } of cases)
      if (!prefixes.has(adapter))
        prefixes.set(adapter, await model.adapter(join(goldenDir(name), "adapters", adapter!)));
    const requests = cases.map((item) => beamRequest(item, eosId, prefixes.get(item.adapter)!));
    const alone: ChoiceResult[][] = [];
    for (const request of requests) alone.push(await submit(model.engine, request).done);

    t.test("tokens, scores, log probabilities and finish reasons are transformers'", async (t) => {
      for (const [index, item] of cases.entries()) {
        const what = JSON.stringify({ ...item, sequences: undefined });
        t.same(
          alone[index]!.map(({ ids }) => ids),
          item.sequences.map(({ token_ids }) => token_ids),
          what,
        );
        const worst = Math.max(
          ...alone[index]!.map(({ score }, rank) => Math.abs(score! - item.sequences[rank]!.score)),
        );
        t.ok(worst < TOLERANCE, `${what}: scores within ${TOLERANCE} (${worst.toExponential(1)})`);
        for (const [rank, { token_ids, token_logprobs, stopped }] of item.sequences.entries()) {
          const choice = alone[index]![rank]!;
          const eos = (item.eos_token_ids ?? [eosId]).includes(token_ids.at(-1)!);
          if (stopped === true || eos) t.equal(choice.reason, eos ? "eos" : "stop", what);
          // The last token of a sequence may also complete a stop string.
          else t.ok(choice.reason === "length" || item.stop !== undefined, what);
          t.equal(choice.top.length, token_ids.length);
          for (const [step, logprob] of (token_logprobs ?? []).entries()) {
            if (Math.abs(logprob - choice.logprobs[step]!) > TOLERANCE)
              t.fail(`${what}: log probability of token ${step} of sequence ${rank}`);
          }
        }
      }
      t.ok(cases.length >= 50, `${cases.length} searches`);
    });

    t.test("searches beside each other and beside other choices give the same bits", async (t) => {
      const random = seededRandom(5);
      const others = Array.from({ length: effort({ short: 8, long: 40 }) }, (_, index) =>
        engineRequest({
          promptIds: Int32Array.of(index, index * 3, 7),
          n: index % 2 === 0 ? 1 : 3,
          sampling: { ...GREEDY, doSample: index % 2 === 1 },
          seed: index,
          prefix: [...prefixes.values()][index % prefixes.size]!,
          maxNewTokens: 3 + (index % 9),
        }),
      );
      const otherAlone: ChoiceResult[][] = [];
      for (const other of others) otherAlone.push(await submit(model.engine, other).done);
      const all = [
        ...requests.map((request, index) => ({ request, expected: alone[index]! })),
        ...others.map((request, index) => ({ request, expected: otherAlone[index]! })),
      ];
      for (let round = 0; round < effort({ short: 1, long: 2 }); round++) {
        const order = all.map((one) => ({ ...one, key: random() })).sort((a, b) => a.key - b.key);
        const results = await Promise.all(order.map(({ request }) => submit(model.engine, request).done));
        const different = results.filter(
          (result, index) => JSON.stringify(result) !== JSON.stringify(order[index]!.expected),
        );
        t.equal(different.length, 0, `${results.length} requests`);
      }
    });

    t.test("draws are distributed as transformers' own (chi-square of two samples)", async (t) => {
      const samples = effort({ short: 500, long: 2000 });
      for (const item of draws) {
        const prefix = await model.adapter(join(goldenDir(name), "adapters", item.adapter!));
        const request = beamRequest({ ...item, length_penalty: 1 }, eosId, prefix);
        const counts = new Map<string, number>();
        const results = await Promise.all(
          Array.from({ length: samples }, (_, seed) => submit(model.engine, { ...request, seed, topLogprobs: 0 }).done),
        );
        for (const choices of results) {
          const key = JSON.stringify(choices.map(({ ids }) => ids));
          counts.set(key, (counts.get(key) ?? 0) + 1);
        }
        // Pool all other outcomes, which are rare, into one.
        const pairs = item.outcomes.map(
          ({ sequences, count }) => [count, counts.get(JSON.stringify(sequences)) ?? 0] as const,
        );
        pairs.push([
          item.samples - pairs.reduce((sum, [theirs]) => sum + theirs, 0),
          samples - pairs.reduce((sum, [, ours]) => sum + ours, 0),
        ]);
        const used = pairs.filter(([theirs]) => (theirs * samples) / item.samples >= 5);
        const [ours, theirs] = [Math.sqrt(item.samples / samples), Math.sqrt(samples / item.samples)];
        const chiSquare = used.reduce(
          (sum, [their, our]) => sum + (our * ours - their * theirs) ** 2 / (our + their),
          0,
        );
        t.ok(used.length > 5, `${used.length} outcomes`);
        // The statistic has mean n and standard deviation sqrt(2 n).
        t.ok(
          chiSquare < used.length + 4 * Math.sqrt(2 * used.length),
          `${JSON.stringify(item.parameters)}: ${chiSquare.toFixed(1)} for ${used.length} outcomes`,
        );
      }
    });
  });
}
