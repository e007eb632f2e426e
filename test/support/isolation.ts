/**
 * Compares requests run alone with mixes of 32 and other prefixes, to the bit, while rows join, leave, move and are
 * cancelled.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { randomCheckpoint } from "../../bench/support/random-checkpoint.ts";
import type { EngineRequest, RequestHandle } from "../../src/engine/request.ts";
import { endOfChunk, FREE_QUANTUM, planPrefill, type PrefillLimits } from "../../src/engine/scheduling/plan.ts";
import { kvElements, type KvTensor, type ModelShape } from "../../src/kv.ts";
import type { Precision } from "../../src/model/graph-weights.ts";
import { effort } from "./effort.ts";
import { firstFit, tokenLimits } from "./plans.ts";
import {
  engineRequest,
  foldWith,
  goldenDir,
  GREEDY,
  openTestModel,
  seededRandom,
  submit,
  type ChoiceResult,
  type TestModel,
} from "./model.ts";

const PER_MIX = 32;
/** Requests that mixes are drawn from. */
const POOL = effort({ short: 24, long: 48 });

/** Properties that hold on the CPU in every precision. */
export function isolationSuite(precision: Precision): void {
  const [tiny, demo, wide] = effort({ short: [3, 1, 1], long: [20, 3, 1] } as const);
  t.test(`tiny model, all kinds of prefixes, ${tiny} mixes`, async (t) => {
    const dir = goldenDir("gelu-new-f32");
    const model = await openTestModel(dir, { prefillChunk: 20, precision });
    t.teardown(() => model.close());
    const adapters = [
      "prefix-p1",
      "prefix-p40-f16",
      "prefix-mlp-p7",
      "cartridge-p12",
      "prompt-p5",
      "cpt-p6",
      "ptuning-lstm-p3",
    ];
    const real = await Promise.all(adapters.map((name) => model.adapter(join(dir, "adapters", name))));
    await checkCuts(t, model, effort({ short: 6, long: 60 }));
    await checkMixes(t, model, {
      mixes: tiny,
      pool: POOL,
      prefixes: [...real, ...randomPrefixes(model.runner.shape, 20, 24)],
      maxPrompt: 30,
      maxNew: 20,
    });
  });

  t.test(`demo model with its prefixes, ${demo} mixes`, async (t) => {
    const model = await openTestModel("models/demo", { precision });
    t.teardown(() => model.close());
    const prefixes = await Promise.all(
      ["datenorm", "datelong", "intent", "truecase", "e2e"].map((name) => model.adapter(join("prefixes", name))),
    );
    await checkMixes(t, model, { mixes: demo, pool: POOL, prefixes, maxPrompt: 120, maxNew: 24 });
  });

  // model/runner-isolation.test.ts has the whole vocabulary in both forms.
  const vocabulary = effort({ short: 8_001, long: 50_257 });
  t.test(`matrices of GPT-2 small's width, ${vocabulary} tokens, ${wide} mix${wide === 1 ? "" : "es"}`, async (t) => {
    const dir = await mkdtemp(join(tmpdir(), "prefixd-wide-"));
    await randomCheckpoint(dir, {
      model_type: "gpt2",
      vocab_size: vocabulary,
      n_positions: 256,
      n_layer: 1,
      n_head: 12,
      n_embd: 768,
      bos_token_id: vocabulary - 1,
      eos_token_id: vocabulary - 1,
    });
    const model = await openTestModel(dir, { precision });
    t.teardown(async () => {
      await model.close();
      await rm(dir, { recursive: true });
    });
    await checkMixes(t, model, {
      mixes: wide,
      pool: effort({ short: 8, long: 32 }),
      prefixes: randomPrefixes(model.runner.shape, 12, 40),
      maxPrompt: 90,
      maxNew: effort({ short: 8, long: 12 }),
    });
    await checkCuts(t, model, effort({ short: 3, long: 20 }));
  });

  t.test("a poisoned prefix (values that overflow) ends its own request and no other", async (t) => {
    const model = await openTestModel(goldenDir("gelu-new-f32"), { precision });
    t.teardown(() => model.close());
    const { shape } = model.runner;
    const poison: KvTensor = { length: 4, data: new Float32Array(kvElements(shape, 4)).fill(3e38) };
    const request = engineRequest({ promptIds: Int32Array.of(5, 9, 12), maxNewTokens: 20 });
    const [alone] = await submit(model.engine, request).done;
    const beside = submit(model.engine, request).done;
    const poisoned = Array.from(
      { length: 20 },
      () => submit(model.engine, engineRequest({ promptIds: Int32Array.of(1, 2), prefix: poison })).done,
    );
    const outcomes = await Promise.allSettled(poisoned);
    for (const outcome of outcomes) {
      t.equal(outcome.status, "rejected");
      if (outcome.status === "rejected") t.match(outcome.reason, { code: "prefix_overflows" });
    }
    t.same((await beside)[0], alone);
    // Rows that held NaN are reused.
    const after = await Promise.all(Array.from({ length: PER_MIX }, () => submit(model.engine, request).done));
    for (const [choice] of after) t.same(choice, alone);
  });
}

/** A prompt's keys, values and logits have the same bits however the scheduler cuts it. */
async function checkCuts(t: Test, { runner }: TestModel, rounds: number): Promise<void> {
  t.notOk(runner.chunkingChangesBits, "as the runner has found itself");
  const { positions, headDim, width, vocabSize } = runner.shape;
  const random = seededRandom(11);
  const below = (limit: number): number => Math.floor(random() * limit);
  const prefixes = randomPrefixes(runner.shape, 5, 20);
  let [unequal, chunks] = [0, 0];
  for (let round = 0; round < rounds; round++) {
    const prefix = prefixes[below(prefixes.length)]!;
    const ids = Int32Array.from({ length: 2 + below(Math.min(200, positions - prefix.length - 1)) }, () =>
      below(vocabSize),
    );
    const feed = async (
      row: number,
      limits: () => Partial<PrefillLimits<unknown>>,
    ): Promise<{ readonly kv: Float32Array; readonly logits: Float32Array }> => {
      runner.loadPrefix(row, prefix);
      for (let fed = 0; ; ) {
        const prompt = { tenant: "", rows: 1, promptLength: ids.length, fed, passedOver: 0 };
        const [chunk] = planPrefill({ running: 1, slots: 2, prefilling: prompt, queue: [] }, firstFit, {
          ...tokenLimits(16 + below(200), FREE_QUANTUM),
          ...limits(),
        });
        const { from, to, last } = chunk!;
        const output = await runner.prefill(row, prefix.length + from, ids.subarray(from, to), "last");
        chunks++;
        if (last) return { kv: (await runner.read(row, positions)).data, logits: output.logits(0).slice() };
        fed = to;
      }
    };
    const one = await feed(0, () => ({}));
    const other = await feed(1, () => ({ least: 1, milliseconds: below(80), cost: (_, from, to) => to - from }));
    // A row's old content is after the prompt.
    const live = (kv: Float32Array): Float32Array =>
      kv.filter((_, index) => Math.floor(index / headDim) % positions < prefix.length + ids.length);
    const [oneLive, otherLive] = [live(one.kv), live(other.kv)];
    if (
      !oneLive.every((value, index) => value === otherLive[index]) ||
      !one.logits.every((value, index) => value === other.logits[index])
    )
      unequal++;
  }
  t.ok(chunks > 2.5 * rounds, `${chunks} chunks`);
  t.equal(unequal, 0, "cuts do not show");
  for (let round = 0; round < rounds; round++) {
    const length = 1 + below(Math.min(200, positions));
    const ids = Int32Array.from({ length }, () => below(vocabSize));
    const data = Float32Array.from({ length: length * width }, () => random() - 0.5);
    for (const input of [
      { kind: "tokens", ids },
      { kind: "embeddings", length, data },
    ] as const) {
      const whole = await foldWith(runner, input);
      for (let from = 0, to = 0; from < length; from = to) {
        to = endOfChunk({ promptLength: length }, from, {
          ...tokenLimits(16 + below(100), FREE_QUANTUM),
          least: 1,
          milliseconds: below(80),
          cost: (_, start, end) => end - start,
        });
        await runner.fold(input, from, to);
      }
      const cut = await runner.read(runner.slots, length);
      if (!whole.data.every((value, index) => value === cut.data[index])) unequal++;
    }
  }
  t.equal(unequal, 0, "nor in what is folded");
}

interface MixOptions {
  readonly mixes: number;
  /** Requests that mixes are drawn from; default 48. */
  readonly pool?: number;
  readonly prefixes: readonly KvTensor[];
  readonly maxPrompt: number;
  readonly maxNew: number;
}

export async function checkMixes(t: Test, model: TestModel, options: MixOptions): Promise<void> {
  const { compared, unequal } = await compareMixes(model, options);
  t.ok(compared > options.mixes * PER_MIX, `${compared} tokens compared`);
  t.equal(unequal, 0, "every token and logprob is bit-equal");
}

/** Tokens compared, and choices that differ from those alone. */
export async function compareMixes(
  model: TestModel,
  options: MixOptions,
): Promise<{ readonly compared: number; readonly unequal: number }> {
  const random = seededRandom(7);
  // A pool of requests whose solo results are known; each mix draws from it.
  const pool: { request: EngineRequest; alone: ChoiceResult[] }[] = [];
  for (let index = 0; index < (options.pool ?? 48); index++) {
    const request = randomRequest(model, options, random);
    pool.push({ request, alone: await submit(model.engine, request).done });
  }
  let compared = 0;
  let unequal = 0;
  for (let mix = 0; mix < options.mixes; mix++) {
    const running = Array.from({ length: PER_MIX }, async () => {
      const { request, alone } = pool[Math.floor(random() * pool.length)]!;
      const cancelAfter = random() < 0.15 ? Math.floor(random() * 6) : Infinity;
      const wait = random() < 0.3 ? Math.floor(random() * 8) : 0;
      await new Promise((resolve) => setTimeout(resolve, wait));
      let seen = 0;
      const cancelSoon = (_: unknown, handle: () => RequestHandle): void => {
        if (++seen > cancelAfter) handle().cancel("removed");
      };
      const results = await submit(model.engine, request, cancelSoon).done;
      for (const [choice, { ids, logprobs }] of results.entries()) {
        const expected = alone[choice]!;
        compared += ids.length;
        if (cancelAfter === Infinity && ids.length !== expected.ids.length) unequal++;
        if (!ids.every((id, step) => id === expected.ids[step] && logprobs[step] === expected.logprobs[step]))
          unequal++;
      }
    });
    await Promise.all(running);
  }
  return { compared, unequal };
}

function randomRequest(model: TestModel, options: MixOptions, random: () => number): EngineRequest {
  const { shape } = model.runner;
  const below = (limit: number): number => Math.floor(random() * limit);
  const prefix = random() < 0.85 ? options.prefixes[below(options.prefixes.length)]! : null;
  const maxNewTokens = 1 + below(options.maxNew);
  const room = shape.positions + 1 - maxNewTokens - (prefix?.length ?? 0);
  const promptIds = Int32Array.from({ length: 1 + below(Math.min(options.maxPrompt, room)) }, () =>
    below(shape.vocabSize),
  );
  const doSample = random() < 0.5;
  const drawn = {
    doSample,
    temperature: 0.5 + random(),
    topK: random() < 0.5 ? 50 : 0,
    topP: random() < 0.5 ? 0.9 : 1,
    typicalP: random() < 0.2 ? 0.8 : 1,
  };
  const processors = {
    repetitionPenalty: random() < 0.3 ? 1.2 : 1,
    frequencyPenalty: random() < 0.2 ? 0.5 : 0,
    presencePenalty: random() < 0.2 ? -0.5 : 0,
    noRepeatNgramSize: random() < 0.2 ? 2 : 0,
    badWords: random() < 0.2 ? [[below(shape.vocabSize)], [below(shape.vocabSize), below(shape.vocabSize)]] : [],
    logitBias: new Map(random() < 0.2 ? [[below(shape.vocabSize), 4]] : []),
    minNewTokens: random() < 0.2 ? 2 : 0,
  };
  const sampling = { ...GREEDY, ...(random() < 0.5 ? processors : {}), ...(doSample ? drawn : {}) };
  const n = doSample && random() < 0.2 ? 3 : 1;
  // From several tenants, so that slow choices are postponed.
  return engineRequest({
    tenant: `user-${below(3)}`,
    promptIds,
    prefix,
    maxNewTokens,
    sampling,
    n,
    seed: below(2 ** 32),
    eosIds: [shape.vocabSize - 1],
  });
}

export function randomPrefixes(shape: ModelShape, count: number, maxLength: number): KvTensor[] {
  const random = seededRandom(3);
  return Array.from({ length: count }, (_, index) => {
    const length = 1 + Math.floor((index * maxLength) / count);
    return { length, data: Float32Array.from({ length: kvElements(shape, length) }, () => 2 * random() - 1) };
  });
}
