/** Tests whether a row's bits depend on how many rows a decode step has, by feeding the same token to all of them. */
import type { ModelRunner, StepOutput } from "../engine/runner.ts";

/** Tokens in each row before those that are compared: attention has something to add up. */
const CONTEXT = 3;
/** Numbers of rows on both sides of where kernels are known to change. */
const TRIED = [1, 2, 4, 5, 8, 9, 16, 17, 31, 32, 33, 64, 65, 128];

type Steps = Pick<ModelRunner, "slots" | "shape" | "decode" | "wipe" | "wipeBuffers">;

/**
 * The fewest rows from which on a row gets the same bits, wherever it is, in a step of any tried number of rows; 1: the
 * number never matters. `slots` where nothing but full steps agrees with them. All rows must be unused; they are zeroed.
 */
export async function leastSteadyRows(runner: Steps): Promise<number> {
  const { slots, shape } = runner;
  const context = Math.min(CONTEXT, shape.positions - 1);
  const counts = [...TRIED.filter((rows) => rows < slots), slots];
  for (let position = 0; position < context; position++) await step(runner, slots, position);
  let expected: Float32Array | null = null;
  let least = slots;
  for (const rows of counts.reverse()) {
    const output = await step(runner, rows, context);
    expected ??= rowOf(output, 0);
    if (!hasOnly(output, expected)) break;
    least = rows;
  }
  for (let row = 0; row < slots; row++) runner.wipe(row, 0, context + 1);
  runner.wipeBuffers();
  return least;
}

function step(runner: Steps, rows: number, position: number): Promise<StepOutput> {
  const id = (position * 7919 + 1) % runner.shape.vocabSize;
  return runner.decode(new Int32Array(rows).fill(id), new Int32Array(rows).fill(position));
}

/** A row's candidates and the log of the sum over its logits. */
function rowOf({ candidates, topLogits, topIds, logSumExp }: StepOutput, row: number): Float32Array {
  const [from, to] = [row * candidates, (row + 1) * candidates];
  return Float32Array.of(...topLogits.subarray(from, to), ...topIds.subarray(from, to), logSumExp[row]!);
}

function hasOnly(output: StepOutput, expected: Float32Array): boolean {
  for (let row = 0; row < output.rows; row++)
    if (rowOf(output, row).some((value, index) => value !== expected[index])) return false;
  return true;
}
