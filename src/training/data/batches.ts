/**
 * Which examples are learned together. Everything is a function of the seed and the epoch, so that it can be repeated.
 */
import { uniform } from "../../engine/sampling/random.ts";
import { fedTokens, targetCount, type TrainSequence } from "../../model/train-batch.ts";
import type { Examples } from "./examples.ts";

/** Uses of the seed; each epoch's shuffles have streams of their own. */
const SPLIT_STREAM = 1;
const FIRST_EPOCH_STREAM = 1 << 16;
/** Batches whose examples are sorted by length together: within one, rows need little padding. */
const POOL_BATCHES = 16;

/** In place (Fisher and Yates). */
function shuffle<T extends { length: number; [index: number]: number | Int32Array }>(
  items: T,
  seed: number,
  stream: number,
): T {
  for (let last = items.length - 1; last > 0; last--) {
    const other = Math.floor(uniform(seed, stream, last) * (last + 1));
    [items[last], items[other]] = [items[other]!, items[last]!];
  }
  return items;
}

const upTo = (count: number): Int32Array => Int32Array.from({ length: count }, (_, index) => index);

/** Divides `[0, count)` at random into `held` indices and the rest. */
export function holdOut(
  count: number,
  held: number,
  seed: number,
): { readonly held: Int32Array; readonly rest: Int32Array } {
  const all = shuffle(upTo(count), seed, SPLIT_STREAM);
  return { held: all.subarray(0, held).sort(), rest: all.subarray(held).sort() };
}

/** Every index of `indices` once, in batches of examples of similar length, in random order. */
export function epochBatches(
  examples: Pick<Examples, "tokens">,
  indices: Int32Array,
  batchSize: number,
  seed: number,
  epoch: number,
): readonly Int32Array[] {
  const stream = FIRST_EPOCH_STREAM + 2 * epoch;
  const order = shuffle(indices.slice(), seed, stream);
  const batches: Int32Array[] = [];
  for (let from = 0; from < order.length; from += POOL_BATCHES * batchSize) {
    const pool = order.subarray(from, from + POOL_BATCHES * batchSize);
    pool.sort((a, b) => examples.tokens(a) - examples.tokens(b));
    for (let at = 0; at < pool.length; at += batchSize) batches.push(pool.subarray(at, at + batchSize));
  }
  return shuffle(batches, seed, stream + 1);
}

/** Memory that a run needs, in bytes, for `rows` sequences of `fed` tokens with `targets` targets in all. */
export type MemoryNeed = (rows: number, fed: number, targets: number) => number;

/**
 * Divides a batch into parts, each within `bytes` of memory. A sequence whose targets alone are too many is learned in
 * several: gradients add up. One that does not fit even so has a part of its own.
 */
export function partsWithin(
  sequences: readonly TrainSequence[],
  need: MemoryNeed,
  bytes: number,
): readonly (readonly TrainSequence[])[] {
  const parts: TrainSequence[][] = [];
  let part: TrainSequence[] = [];
  let [fed, targets] = [0, 0];
  for (const sequence of sequences.flatMap((whole) => divided(whole, need, bytes))) {
    const nextFed = Math.max(fed, fedTokens(sequence));
    const nextTargets = targets + targetCount(sequence);
    if (part.length > 0 && need(part.length + 1, nextFed, nextTargets) > bytes) {
      parts.push(part);
      [part, fed, targets] = [[sequence], fedTokens(sequence), targetCount(sequence)];
    } else {
      part.push(sequence);
      [fed, targets] = [nextFed, nextTargets];
    }
  }
  return [...parts, part];
}

/** Halves the targets until they fit, or one is left. */
function divided(sequence: TrainSequence, need: MemoryNeed, bytes: number): TrainSequence[] {
  const count = targetCount(sequence);
  const fits = need(1, fedTokens(sequence), count) <= bytes;
  // Where the tokens alone need too much, fewer targets do not help.
  if (fits || count === 1 || need(1, fedTokens(sequence), 1) > bytes) return [sequence];
  const middle = sequence.firstTarget + Math.floor(count / 2);
  return [
    ...divided({ ...sequence, endTarget: middle }, need, bytes),
    ...divided({ ...sequence, firstTarget: middle }, need, bytes),
  ];
}
