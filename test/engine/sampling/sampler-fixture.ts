import type { StepOutput } from "../../../src/engine/runner.ts";
import { DEFAULT_SAMPLING, type SamplingParams } from "../../../src/engine/request.ts";

export const GREEDY = DEFAULT_SAMPLING;

/** What a runner with `candidates` candidates gives for these rows of logits, with buffers longer than needed; counts reads of whole rows. */
export function stepOutput(
  rows: readonly Float32Array[],
  candidates: number,
  room = 0,
): StepOutput & { reads: number } {
  const slots = rows.length + room;
  const output = {
    rows: rows.length,
    candidates,
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

/** A history as transformers sees it. */
export interface History {
  readonly prompt: readonly number[];
  readonly generated: readonly number[];
  readonly eosIds: readonly number[];
}

/**
 * transformers' processors and warpers written as plainly as can be: everything for every token, one step after the other. Returns the
 * surviving tokens with their probabilities, likeliest first.
 */
export function plainDistribution(
  logits: Float32Array,
  params: SamplingParams,
  history: History,
  keep = 1,
): { id: number; p: number }[] {
  const scores = plainScores(logits, params, history);
  if (params.temperature !== 1)
    for (const id of scores.keys()) scores[id] = scores[id]! / Math.fround(params.temperature);
  let kept = Array.from(scores.keys()).filter((id) => scores[id] !== -Infinity);
  kept.sort((a, b) => scores[b]! - scores[a]! || a - b);
  const softmax = (): number[] => {
    const weights = kept.map((id) => Math.exp(Math.fround(scores[id]! - scores[kept[0]!]!)));
    const sum = weights.reduce((a, b) => a + b, 0);
    return weights.map((weight) => weight / sum);
  };
  const entropy = (): number => softmax().reduce((sum, p) => sum - (p > 0 ? p * Math.log(p) : 0), 0);
  const keepLikely = (cutoff: number): void => {
    const probabilities = softmax();
    kept = kept.filter(
      (id, i) =>
        scores[id]! >= scores[kept[Math.min(keep, kept.length) - 1]!]! ||
        Math.fround(probabilities[i]!) >= Math.fround(cutoff),
    );
  };
  if (params.topH !== null) {
    kept = kept.slice(0, 100);
    const limit = Math.fround(Math.fround(entropy()) * Math.fround(params.topH));
    let sum = 0;
    kept = softmax().flatMap((p, i) =>
      Math.fround((sum -= p > 0 ? Math.fround(Math.fround(p) * Math.fround(Math.log(Math.fround(p)))) : NaN)) <=
        limit || i === 0
        ? [kept[i]!]
        : [],
    );
  }
  const topK = Math.max(params.topK, keep);
  if (params.topK > 0 && topK < kept.length) kept = kept.filter((id) => scores[id]! >= scores[kept[topK - 1]!]!);
  if (params.topP < 1) {
    const probability = new Map(softmax().map((p, i) => [kept[i]!, Math.fround(p)]));
    const ascending = kept.toReversed();
    let sum = 0;
    const removed = new Set(
      ascending
        .slice(0, -keep)
        .filter((id) => Math.fround((sum += probability.get(id)!)) <= Math.fround(1 - params.topP)),
    );
    kept = kept.filter((id) => !removed.has(id));
  }
  if (params.minP > 0) {
    const probabilities = softmax();
    const ratio = (i: number): number => Math.fround(probabilities[i]! / probabilities[0]!);
    kept = kept.filter((_, i) => i < keep || ratio(i) >= Math.fround(params.minP));
  }
  if (params.typicalP < 1) {
    const middle = entropy();
    const tokens = softmax().map((p, i) => ({
      id: kept[i]!,
      p,
      distance: Math.fround(Math.abs(-Math.log(p) - middle)),
    }));
    let sum = 0;
    const nearest = tokens.toSorted((a, b) => a.distance - b.distance);
    const last = nearest.find(({ p }) => (sum += p) >= params.typicalP);
    kept = tokens
      .filter((token) => token.distance <= (last?.distance ?? Infinity) || nearest.indexOf(token) < keep)
      .map(({ id }) => id);
  }
  if (params.epsilonCutoff > 0) keepLikely(params.epsilonCutoff);
  if (params.etaCutoff > 0) keepLikely(Math.min(params.etaCutoff, Math.sqrt(params.etaCutoff) * Math.exp(-entropy())));
  return softmax().map((p, i) => ({ id: kept[i]!, p }));
}

/** The scores before temperature. */
export function plainScores(
  logits: Float32Array,
  params: SamplingParams,
  { prompt, generated, eosIds }: History,
): Float32Array {
  const ids = [...prompt, ...generated];
  const ends = (words: readonly number[]): boolean =>
    words.length <= ids.length && words.every((id, i) => id === ids[ids.length - words.length + i]);
  const scores = forced(params, prompt, generated, logits.length) ?? unforced();
  const decay = params.exponentialDecay;
  if (decay !== null && generated.length > decay.start) {
    const by = Math.fround(decay.factor ** (generated.length - decay.start) - 1);
    for (const id of eosIds) if (scores[id] !== -Infinity) scores[id]! += Math.fround(Math.abs(scores[id]!) * by);
  }
  for (const id of params.suppressIds) scores[id] = -Infinity;
  const begin = prompt.length === 1 && params.forcedBosId !== null ? 1 : 0;
  if (generated.length === begin) for (const id of params.beginSuppressIds) scores[id] = -Infinity;
  for (const id of new Set(generated)) {
    scores[id]! -= Math.fround(Math.fround(params.frequencyPenalty) * generated.filter((other) => other === id).length);
    scores[id]! -= Math.fround(params.presencePenalty);
  }
  return scores;

  function unforced(): Float32Array {
    const scores = Float32Array.from(logits);
    const biases = new Float32Array(logits.length);
    for (const [id, bias] of params.logitBias) biases[id] = bias;
    for (const {
      ids: [id, ...more],
      bias,
    } of params.sequenceBias)
      if (more.length === 0) biases[id!] = bias;
    for (const { ids: words, bias } of params.sequenceBias)
      if (words.length > 1 && ends(words.slice(0, -1))) biases[words.at(-1)!]! += Math.fround(bias);
    for (const id of scores.keys()) scores[id]! += biases[id]!;
    const penalty = Math.fround(params.repetitionPenalty);
    if (penalty !== 1)
      for (const id of new Set(ids)) scores[id] = scores[id]! < 0 ? scores[id]! * penalty : scores[id]! / penalty;
    const n = params.noRepeatNgramSize;
    if (n > 0)
      for (let i = 0; i + n <= ids.length; i++) if (ends(ids.slice(i, i + n - 1))) scores[ids[i + n - 1]!] = -Infinity;
    for (const word of params.badWords)
      if (ends(word.slice(0, -1)) && !(word.length === 1 && eosIds.includes(word[0]!)))
        scores[word.at(-1)!] = -Infinity;
    if (generated.length < params.minNewTokens) for (const id of eosIds) scores[id] = -Infinity;
    return scores;
  }
}

/** The scores where ids are forced, else null. */
function forced(
  { forcedBosId, forcedLast }: SamplingParams,
  prompt: readonly number[],
  generated: readonly number[],
  size: number,
): Float32Array | null {
  const first = forcedBosId !== null && prompt.length + generated.length === 1 ? [forcedBosId] : null;
  const ids = generated.length === forcedLast?.index ? forcedLast.ids : first;
  if (ids === null) return null;
  return Float32Array.from({ length: size }, (_, id) => (ids.includes(id) ? 0 : -Infinity));
}
