/** Requests alone and in mixes of 32 with other prefixes, while rows join, leave, move and are cancelled: bit-equal or not. */
import type { Test } from "tap";
import type { EngineRequest, RequestHandle } from "../../src/engine/request.ts";
import { kvElements, type KvTensor, type ModelShape } from "../../src/kv.ts";
import { engineRequest, GREEDY, seededRandom, submit, type ChoiceResult, type TestModel } from "./model.ts";

export const PER_MIX = 32;

export interface MixOptions {
  readonly mixes: number;
  readonly prefixes: readonly KvTensor[];
  readonly maxPrompt: number;
  readonly maxNew: number;
}

export async function checkMixes(t: Test, model: TestModel, options: MixOptions): Promise<void> {
  const random = seededRandom(7);
  // A pool of requests whose solo results are known; each mix draws from it.
  const pool: { request: EngineRequest; alone: ChoiceResult[] }[] = [];
  for (let index = 0; index < 48; index++) {
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
        if (!ids.every((id, step) => id === expected.ids[step] && logprobs[step] === expected.logprobs[step])) unequal++;
      }
    });
    await Promise.all(running);
  }
  t.ok(compared > options.mixes * PER_MIX, `${compared} tokens compared`);
  t.equal(unequal, 0, "every token and logprob is bit-equal");
}

function randomRequest(model: TestModel, options: MixOptions, random: () => number): EngineRequest {
  const { shape } = model.runner;
  const below = (limit: number): number => Math.floor(random() * limit);
  const prefix = random() < 0.85 ? options.prefixes[below(options.prefixes.length)]! : null;
  const maxNewTokens = 1 + below(options.maxNew);
  const room = shape.positions + 1 - maxNewTokens - (prefix?.length ?? 0);
  const promptIds = Int32Array.from({ length: 1 + below(Math.min(options.maxPrompt, room)) }, () => below(shape.vocabSize));
  const doSample = random() < 0.5;
  const drawn = { doSample, temperature: 0.5 + random(), topK: random() < 0.5 ? 50 : 0, topP: random() < 0.5 ? 0.9 : 1, typicalP: random() < 0.2 ? 0.8 : 1 };
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
  return engineRequest({ promptIds, prefix, maxNewTokens, sampling, n, seed: below(2 ** 32), eosIds: [shape.vocabSize - 1] });
}

export function randomPrefixes(shape: ModelShape, count: number, maxLength: number): KvTensor[] {
  const random = seededRandom(3);
  return Array.from({ length: count }, (_, index) => {
    const length = 1 + Math.floor((index * maxLength) / count);
    return { length, data: Float32Array.from({ length: kvElements(shape, length) }, () => 2 * random() - 1) };
  });
}
