/**
 * Does a device answer a request alike alone and beside others? On the CPU it does, to the bit, as tests prove. On a
 * GPU kernels depend on the batch size, so this counts differences over random mixes.
 *
 *     DEVICE=cuda|webgpu [PRECISION=fp16] [BATCH_INVARIANT=on] [MIXES=200] [SIZE=demo|gpt2|...] npm run bench -- isolation
 */
import { openFolder, DEMO, newEngine, sizedCheckpoint, benchRequest, promptIds, randomPrefix } from "./support/gpt2.ts";
import { seededRandom } from "../src/load/random.ts";
import type { Engine } from "../src/engine/engine.ts";
import type { EngineRequest } from "../src/engine/request.ts";
import type { Precision } from "../src/model/graph-weights.ts";
import { DEVICES } from "../src/runtime/devices.ts";
import { SIMULATED } from "../test/support/devices.ts";

const KIND = process.env["DEVICE"] ?? "cpu";
const device = KIND === "simulated" ? SIMULATED.stream : DEVICES[KIND as keyof typeof DEVICES];
const precision = (process.env["PRECISION"] ?? (KIND === "cuda" ? "fp16" : "fp32")) as Precision;
const MIXES = Number(process.env["MIXES"] ?? 200);
const [ROWS, REQUESTS, NEW] = [32, 48, 16];

interface Answer {
  readonly ids: number[];
  readonly logprobs: number[];
}

const SIZE = process.env["SIZE"] ?? "demo";
const model = await openFolder(SIZE === "demo" ? DEMO : await sizedCheckpoint(SIZE), ROWS, precision, 2, device);
const engine = newEngine(model.runner);
const random = seededRandom(5);
const requests = Array.from({ length: REQUESTS }, (_, seed) => ({
  promptIds: promptIds(1 + Math.floor(random() * 40), seed, model.shape.vocabSize),
  prefix: seed % 4 === 0 ? null : randomPrefix(model.shape, 1 + Math.floor(random() * 30), seed),
  maxNewTokens: NEW,
}));
const alone: Answer[] = [];
for (const request of requests) alone.push(await answer(engine, request));
let [compared, sameBits, sameTokens, largest] = [0, 0, 0, 0];
for (let mix = 0; mix < MIXES; mix++) {
  const chosen = Array.from({ length: 1 + Math.floor(random() * ROWS) }, () => Math.floor(random() * REQUESTS));
  const answers = await Promise.all(chosen.map((index) => answer(engine, requests[index]!)));
  for (const [at, { ids, logprobs }] of answers.entries()) {
    const expected = alone[chosen[at]!]!;
    compared++;
    const until = ids.findIndex((id, step) => id !== expected.ids[step]);
    if (until < 0) sameTokens++;
    const differences = logprobs
      .slice(0, until < 0 ? ids.length : until)
      .map((value, step) => Math.abs(value - expected.logprobs[step]!));
    largest = Math.max(largest, ...differences);
    if (until < 0 && differences.every((difference) => difference === 0)) sameBits++;
  }
}
const share = (count: number): string => `${((100 * count) / compared).toFixed(2)} %`;
console.log(
  `${SIZE}, ${KIND} ${precision}: ${compared} requests in ${MIXES} mixes of up to ${ROWS}: ${share(sameBits)} with the bits of those alone, ${share(sameTokens)} with their tokens; log probabilities differ by at most ${largest.toExponential(1)}`,
);
process.exit(0);

function answer(to: Engine, given: Pick<EngineRequest, "promptIds" | "prefix" | "maxNewTokens">): Promise<Answer> {
  const result: Answer = { ids: [], logprobs: [] };
  return new Promise((resolve, reject) => {
    to.submit(benchRequest(given), {
      onToken: ({ id, logprob }) => (result.ids.push(id), result.logprobs.push(logprob), "continue"),
      onFinish: () => resolve(result),
      onError: reject,
    });
  });
}
