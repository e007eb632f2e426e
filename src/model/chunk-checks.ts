/** Tests how kernels handle chunked prompts, by feeding one prompt whole and in chunks. */
import type { ModelRunner, StepOutput } from "../engine/runner.ts";

/** Chunk length, in tokens, up to which every attention kernel is correct. */
const SHORT_CHUNK = 31;
const TOLERANCE = 0.01;
/** Positions, from 0 on, that the tests here write to. */
export const TRIAL_TOKENS = 2 * SHORT_CHUNK;
/** Length of the prompt whose bits are compared, in tokens, and the positions of its cuts. */
const CUT_TOKENS = 57;
const CUTS = [8, 24, 48];
/**
 * CPU attention works in blocks of 2 * headDim tokens: when headDim is a multiple of this, the scheduler's cuts never
 * leave a one-token chunk.
 */
const HEAD_QUANTUM = 8;

type Feeds = Pick<ModelRunner, "shape" | "prefill" | "read">;

/**
 * The maximum number of tokens that may be fed at once. ORT's WebGPU attention uses another kernel from 32 tokens on,
 * which is wrong on some GPU adapters: it assumes a subgroup size that, for example, SwiftShader does not have. The
 * kernel is correct here if short chunks give the same result.
 */
export async function longestRightChunk(runner: Feeds, row: number): Promise<number> {
  const ids = promptOf(runner, TRIAL_TOKENS);
  const whole = await feed(runner, row, ids, []);
  const chunks = await feed(runner, row, ids, [SHORT_CHUNK]);
  // Rounding errors are far below the tolerance, those of a wrong kernel far above.
  return whole.some((logit, index) => Math.abs(logit - chunks[index]!) > TOLERANCE * (1 + Math.abs(logit)))
    ? SHORT_CHUNK
    : Infinity;
}

/** Whether chunking changes the last bits of a prompt's results; with the CPU's kernels it is known not to. */
export async function doesChunkingChangeBits(runner: Feeds, row: number): Promise<boolean> {
  if (runner.shape.headDim % HEAD_QUANTUM !== 0) return true;
  const ids = promptOf(runner, CUT_TOKENS);
  const results: Float32Array[][] = [];
  for (const cuts of [[], CUTS]) {
    const logits = await feed(runner, row, ids, cuts);
    results.push([logits, (await runner.read(row, ids.length)).data]);
  }
  const [whole, chunks] = results;
  return whole!.some((values, part) => values.some((value, index) => value !== chunks![part]![index]));
}

function promptOf({ shape }: Feeds, length: number): Int32Array {
  return Int32Array.from(
    { length: Math.min(length, shape.positions) },
    (_, index) => (index * 7919 + 1) % shape.vocabSize,
  );
}

/** Feeds the tokens in chunks that end at `cuts`; returns the last token's largest logits. */
async function feed(runner: Feeds, row: number, ids: Int32Array, cuts: readonly number[]): Promise<Float32Array> {
  let output: StepOutput | undefined;
  let from = 0;
  for (const end of [...cuts.filter((cut) => cut < ids.length), ids.length]) {
    output = await runner.prefill(row, from, ids.subarray(from, end), "last");
    from = end;
  }
  return output!.topLogits.slice(0, output!.candidates);
}
