import type { StepOutput } from "../../src/engine/model-runner.ts";
import { DEFAULT_SAMPLING, type SamplingParams } from "../../src/engine/request.ts";

export const GREEDY = DEFAULT_SAMPLING;

/** What a runner with `candidates` candidates gives for these rows of logits, with buffers longer than needed; counts reads of whole rows. */
export function stepOutput(rows: readonly Float32Array[], candidates: number, room = 0): StepOutput & { reads: number } {
  const slots = rows.length + room;
  const output = {
    rows: rows.length,
    topLogits: new Float32Array(slots * candidates),
    topIds: new Int32Array(slots * candidates),
    logSumExp: new Float32Array(slots),
    reads: 0,
    logits(row: number): Float32Array {
      output.reads++;
      return rows[row] ?? new Float32Array(0);
    },
  };
  for (const [row, logits] of rows.entries()) {
    const order = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b);
    for (let i = 0; i < candidates; i++) {
      output.topIds[row * candidates + i] = order[i]!;
      output.topLogits[row * candidates + i] = logits[order[i]!]!;
    }
    const best = logits.reduce((a, b) => Math.max(a, b));
    output.logSumExp[row] = best + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - best), 0));
  }
  return output;
}

/**
 * transformers' processors written as plainly as can be: sort everything, one step after the other. Returns the surviving
 * tokens with their probabilities, likeliest first.
 */
export function plainDistribution(logits: Float32Array, params: SamplingParams, seenIds: Iterable<number>, masked: readonly number[]): { id: number; p: number }[] {
  const scores = Float32Array.from(logits);
  const penalty = Math.fround(params.repetitionPenalty);
  if (penalty !== 1) for (const id of new Set(seenIds)) scores[id] = scores[id]! < 0 ? scores[id]! * penalty : scores[id]! / penalty;
  for (const id of masked) scores[id] = -Infinity;
  if (params.temperature !== 1) for (const id of scores.keys()) scores[id] = scores[id]! / Math.fround(params.temperature);
  let kept = Array.from(scores.keys()).filter((id) => scores[id] !== -Infinity);
  kept.sort((a, b) => scores[b]! - scores[a]! || a - b);
  const softmax = (): number[] => {
    const weights = kept.map((id) => Math.exp(Math.fround(scores[id]! - scores[kept[0]!]!)));
    const sum = weights.reduce((a, b) => a + b, 0);
    return weights.map((weight) => weight / sum);
  };
  if (params.topK > 0 && params.topK < kept.length) kept = kept.filter((id) => scores[id]! >= scores[kept[params.topK - 1]!]!);
  if (params.topP < 1) {
    const probability = new Map(softmax().map((p, i) => [kept[i]!, Math.fround(p)]));
    const ascending = kept.toReversed();
    let sum = 0;
    const removed = new Set(ascending.slice(0, -1).filter((id) => Math.fround((sum += probability.get(id)!)) <= Math.fround(1 - params.topP)));
    kept = kept.filter((id) => !removed.has(id));
  }
  if (params.minP > 0) {
    const probabilities = softmax();
    const ratio = (i: number): number => Math.fround(probabilities[i]! / probabilities[0]!);
    kept = kept.filter((_, i) => ratio(i) >= Math.fround(params.minP));
  }
  return softmax().map((p, i) => ({ id: kept[i]!, p }));
}
