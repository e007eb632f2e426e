/** Beam search with sampling: transformers' `_beam_search` with `do_sample`. */
import type { Continuation, OpenBeam } from "./continuations.ts";
import { listOnly } from "../sampling/full-logits.ts";
import { candidateListFor, listForced, listKnown, scratchFor, unknownBelow } from "../sampling/known-scores.ts";
import type { SamplingParams } from "../request.ts";
import { NotFiniteError } from "../sampling/logits-row.ts";
import { type WarpedTokens, TOP_H_TOKENS } from "../sampling/warped-tokens.ts";

/**
 * What is left of one beam's tokens, likeliest first, with the scores of the continuations and what they weigh in the
 * draw.
 */
interface Tokens {
  readonly ids: Int32Array;
  readonly scores: Float32Array;
  /** exp(score - best of all beams); 0 once drawn. */
  readonly weights: Float64Array;
  mass: number;
}

/**
 * `count` continuations of all beams, drawn one after another without replacement from the softmax of their scores, in
 * the order drawn: transformers' log_softmax, logits processors, warpers, sum with the beam's score, multinomial over
 * `[beams * vocabulary]`. Fewer if no more have any probability (torch fills up with impossible ones). `keep`: so many
 * tokens of each beam the warpers leave at least; `uniform`: the number in [0, 1) that decides draw `index`, over beams
 * in order and their tokens by descending score, equal ones by ascending id.
 * @throws MaskPending; PrefixdError model_failed if a row's logits are not numbers
 */
export function drawContinuations(
  beams: readonly OpenBeam[],
  count: number,
  params: SamplingParams,
  keep: number,
  uniform: (index: number) => number,
): Continuation[] {
  const tokens = beams.map((beam) => tokensOf(beam, params, keep));
  weigh(tokens);
  const drawn: Continuation[] = [];
  while (drawn.length < count) {
    const total = tokens.reduce((sum, { mass }) => sum + mass, 0);
    if (!(total > 0)) break;
    drawn.push(draw(tokens, uniform(drawn.length) * total));
  }
  return drawn;
}

function tokensOf(beam: OpenBeam, params: SamplingParams, keep: number): Tokens {
  const list = listFor(beam, params, keep);
  if (params.renormalize) list.normalise();
  const scores = list.scores.slice(0, list.length).map((score) => score + beam.score);
  return { ids: list.ids.slice(0, list.length), scores, weights: new Float64Array(list.length), mass: 0 };
}

/**
 * What processors and warpers leave of a beam's tokens: from the candidates where they provably suffice, else from all
 * logits.
 */
function listFor({ row, processors }: OpenBeam, params: SamplingParams, keep: number): WarpedTokens {
  const { temperature, topH, topK } = params;
  if (processors.forced !== null) {
    const forced = listForced(processors.forced, processors);
    forced.temper(temperature);
    forced.warp(params, keep);
    return forced;
  }
  const known = candidateListFor(row.candidates);
  if (listKnown(known, row, processors, row.logSumExp)) {
    known.outside = unknownBelow(Math.fround(row.lastLogit - row.logSumExp), temperature);
    known.temper(temperature);
    if (known.warp(params, keep) && known.complete) return known;
  }
  const logits = row.logits();
  const { full, list } = scratchFor(logits.length);
  const { allowed } = processors;
  if (allowed !== null) {
    if (!listOnly(allowed, logits, processors, row.logSumExp, list)) throw new NotFiniteError();
    list.temper(temperature);
    list.warp(params, keep);
    return list;
  }
  full.loadLogprobs(logits, row.logSumExp, processors, temperature);
  if (full.broken) throw new NotFiniteError();
  if (topH !== null) full.listTop(TOP_H_TOKENS, list);
  else if (topK > 0) full.listTop(Math.max(topK, keep), list);
  else full.listAll(list);
  list.warp(params, keep);
  return list;
}

function weigh(beams: readonly Tokens[]): void {
  const best = beams.reduce((highest, { scores }) => scores.reduce((a, b) => Math.max(a, b), highest), -Infinity);
  for (const beam of beams) {
    for (const [i, score] of beam.scores.entries()) beam.weights[i] = Math.exp(score - best);
    beam.mass = sum(beam.weights);
  }
}

/** Takes out the token at `aim` in [0, sum of all weights). */
function draw(beams: readonly Tokens[], aim: number): Continuation {
  let before = 0;
  let beam = 0;
  while (beam < beams.length - 1 && before + beams[beam]!.mass <= aim) before += beams[beam++]!.mass;
  // Rounding has put the aim past the end: take the last one.
  while (beams[beam]!.mass === 0) before -= beams[--beam]!.mass;
  const tokens = beams[beam]!;
  let at = 0;
  for (let i = 0; i < tokens.weights.length; i++) {
    if (tokens.weights[i] === 0) continue;
    at = i;
    before += tokens.weights[i]!;
    if (aim < before) break;
  }
  tokens.weights[at] = 0;
  tokens.mass = sum(tokens.weights);
  return { beam, id: tokens.ids[at]!, score: tokens.scores[at]! };
}

function sum(values: Float64Array): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i]!;
  return total;
}
