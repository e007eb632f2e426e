/**
 * Chooses a token from one row of a step as transformers' `generate()` does, from as few of its logits as provably
 * suffice: the model's best candidates; else the tokens above a floor; else all. The result is the same.
 *
 * Every token that is not a candidate has a logit of at most the last candidate's. Processors change known ids, and
 * those that only lower scores raise nothing from below. So the candidates' processed scores, and the single logits of
 * ids that may be raised, bound all others. A constraint only lowers scores, to nothing. If it allows few tokens, they
 * are read one by one. Which tokens it allows may not be known yet; candidates can be tried one by one. A single logit
 * is free on a CPU; where logits are on a GPU, the first one downloads the row. Where the processors force ids, all
 * others are ruled out and no logit matters.
 */
import { PrefixdError } from "../../errors.ts";
import { type FullScores, listAtLeast, listOnly } from "./full-logits.ts";
import { candidateListFor, listForced, listKnown, scratchFor, unknownBelow } from "./known-scores.ts";
import type { LogitsProcessors } from "./processors.ts";
import type { SamplingParams } from "../request.ts";
import { NotFiniteError, type Row } from "./logits-row.ts";
import { type WarpedTokens, TOP_H_TOKENS } from "./warped-tokens.ts";
import { NOTHING, type Outside, tempered, weightOf } from "./probability.ts";

/** A floor is lowered by this part of itself, so that tokens on it are clearly above it, even after temperature. */
const FLOOR_SLACK = 1e-6;
/** Safety margin, in nats, below the min_p threshold. */
const MIN_P_SLACK = 1e-4;
/**
 * Error allowed for the model's fp32 log-sum-exp: its kernel's, and a few units in the last place (2^-23 of its size).
 */
const LOG_SUM_EXP_ERROR = { absolute: 1e-5, relative: 5e-7 };

/**
 * The next token. `u` in [0, 1) chooses from the distribution function over tokens in descending order of probability,
 * ties by id; greedy search takes the highest score with the lowest id. Throws MaskPending, `model_failed` if logits
 * are not numbers, `invalid_parameter` if the processors forbid every token.
 */
export function chooseToken(row: Row, processors: LogitsProcessors, params: SamplingParams, u: number): number {
  if (processors.forced !== null) return chooseForced(processors.forced, processors, params, u);
  if (!params.doSample) return chooseBest(row, processors);
  const fromCandidates = sampleCandidates(row, processors, params, u);
  if (fromCandidates.id !== -1) return fromCandidates.id;
  const { allowed } = processors;
  if (allowed !== null) return sampleOnly(allowed, row, processors, params, u);
  const logits = row.logits();
  const fromFloor =
    fromCandidates.floor === -Infinity ? -1 : sampleAbove(fromCandidates.floor, logits, processors, params, u);
  return fromFloor === -1 ? sampleAll(logits, processors, params, u) : fromFloor;
}

function chooseForced(
  forced: readonly number[],
  processors: LogitsProcessors,
  params: SamplingParams,
  u: number,
): number {
  const list = listForced(forced, processors);
  if (list.length === 0) throw nothingMayCome();
  if (!params.doSample || !Number.isFinite(tempered(list.scores[0]!, params.temperature))) return list.ids[0]!;
  list.temper(params.temperature);
  list.warp(params);
  return list.draw(u);
}

function chooseBest(row: Row, processors: LogitsProcessors): number {
  if (processors.idle) return row.topId(0);
  let best = -Infinity;
  let bestId = -1;
  const consider = (id: number, logit: number): void => {
    const score = processors.score(id, logit);
    if (score < best || (score === best && id > bestId)) return;
    best = score;
    bestId = id;
  };
  if (processors.mayRaise) {
    const logits = row.logits();
    processors.forEachChanged((id) => consider(id, logits[id]!));
  }
  // After a candidate whose logit is below the best score, everything is lower still or has been considered.
  for (let rank = 0; rank < row.candidates; rank++) {
    if (row.topLogit(rank) < best) return bestId;
    consider(row.topId(rank), row.topLogit(rank));
  }
  if (best > row.lastLogit) return bestId;
  const { allowed } = processors;
  if (allowed !== null) return listOf(allowed, row, processors).ids[0]!;
  return bestOfAll(row.logits(), processors);
}

/**
 * Chooses from the candidates and the tokens that processors raise. -1 if they do not suffice, together with a floor:
 * tokens with lower scores need not be considered (-Infinity if unknown).
 */
function sampleCandidates(
  row: Row,
  processors: LogitsProcessors,
  params: SamplingParams,
  u: number,
): { id: number; floor: number } {
  const list = candidateListFor(row.candidates);
  if (!listKnown(list, row, processors, 0)) return { id: -1, floor: -Infinity };
  const { temperature, topK } = params;
  const best = list.scores[0]!;
  const floor = floorOf(list, params);
  if (!(best > row.lastLogit)) return { id: -1, floor };
  // A temperature near 0 that overflows fp32 is the greedy limit.
  if (!Number.isFinite(tempered(best, temperature))) return { id: list.ids[0]!, floor };
  // With top_h and top_k it does not matter how much the others weigh.
  const unknown = params.topH !== null || topK > 0 || temperature > 1 || processors.constrained;
  list.outside = unknown
    ? unknownBelow(row.lastLogit, temperature)
    : othersByLogSumExp(list, row, processors, temperature);
  list.temper(temperature);
  return { id: list.warp(params) ? list.draw(u) : -1, floor };
}

/** A lower bound, before temperature, on the scores that top_k or min_p keep out of these tokens and any others. */
function floorOf(list: WarpedTokens, { temperature, topH, topK, topP, minP }: SamplingParams): number {
  let floor = -Infinity;
  // top_h considers tokens below those that it keeps.
  if (topH !== null) return floor;
  if (topK > 0 && topK <= list.length) floor = list.scores[topK - 1]!;
  else if (topK === 0 && topP === 1 && minP > 0) floor = list.scores[0]! + (Math.log(minP) - MIN_P_SLACK) * temperature;
  return floor - Math.abs(floor) * FLOOR_SLACK;
}

/** Chooses from all tokens that score at least `floor`; -1 if they do not suffice. */
function sampleAbove(
  floor: number,
  logits: Float32Array,
  processors: LogitsProcessors,
  params: SamplingParams,
  u: number,
): number {
  const { list } = scratchFor(logits.length);
  if (!listAtLeast(floor, logits, processors, list)) throw new NotFiniteError();
  if (!Number.isFinite(tempered(list.scores[0]!, params.temperature))) return list.ids[0]!;
  list.outside = unknownBelow(floor, params.temperature);
  list.temper(params.temperature);
  return list.warp(params) ? list.draw(u) : -1;
}

function sampleAll(logits: Float32Array, processors: LogitsProcessors, params: SamplingParams, u: number): number {
  const { full, list } = scratchFor(logits.length);
  full.load(logits, processors, params.temperature);
  if (full.broken || !Number.isFinite(full.best)) return bestOfAll(logits, processors);
  if (params.topH !== null) full.listTop(TOP_H_TOKENS, list);
  else if (params.topK > 0) full.listTop(params.topK, list);
  else {
    const id = likelyDraw(full, list, params, u);
    if (id !== -1) return id;
    full.listAll(list);
  }
  list.warp(params);
  return list.draw(u);
}

/** Chooses from these tokens: a constraint allows no others. */
function sampleOnly(
  ids: Int32Array,
  row: Row,
  processors: LogitsProcessors,
  params: SamplingParams,
  u: number,
): number {
  const list = listOf(ids, row, processors);
  if (!Number.isFinite(tempered(list.scores[0]!, params.temperature))) return list.ids[0]!;
  list.temper(params.temperature);
  list.warp(params);
  return list.draw(u);
}

/** These tokens by processed score; at least one. */
function listOf(ids: Int32Array, row: Row, processors: LogitsProcessors): WarpedTokens {
  const logits = row.logits();
  const { list } = scratchFor(logits.length);
  if (!listOnly(ids, logits, processors, 0, list)) throw new NotFiniteError();
  if (list.length === 0) throw nothingMayCome();
  return list;
}

/** Without top_k, chooses from the likely part of all tokens; -1 if that does not suffice. */
function likelyDraw(full: FullScores, list: WarpedTokens, params: SamplingParams, u: number): number {
  const { topP, minP, typicalP, epsilonCutoff, etaCutoff } = params;
  if (minP <= 0 && typicalP === 1 && epsilonCutoff <= 0 && etaCutoff <= 0) return full.drawNucleus(topP, u, list);
  full.listFor(params, list);
  return list.warp(params) ? list.draw(u) : -1;
}

function bestOfAll(logits: Float32Array, processors: LogitsProcessors): number {
  const { full } = scratchFor(logits.length);
  full.load(logits, processors, 1);
  if (full.broken) throw new NotFiniteError();
  if (full.bestId === -1) throw nothingMayCome();
  return full.bestId;
}

/**
 * The weight of the tokens that `listKnown` left out, from the model's log-sum-exp, for T <= 1. Tokens that processors
 * change are known one by one. The others have scores s = logits <= last, `last` being the last candidate's logit:
 * nearly exact at T = 1, and below sum exp((s - best) / T) <= sum exp(s - best) * exp((last - best) * (1 / T - 1)).
 */
function othersByLogSumExp(list: WarpedTokens, row: Row, processors: LogitsProcessors, temperature: number): Outside {
  const { lastLogit, logSumExp } = row;
  const best = list.scores[0]!;
  const top = tempered(best, temperature);
  const bound = tempered(lastLogit, temperature);
  if (bound === -Infinity) return NOTHING;
  const total = Math.exp(logSumExp - best);
  let others = total;
  for (let i = 0; i < list.length; i++) others -= Math.exp(list.scores[i]! - best);
  let changed = 0;
  if (!processors.idle) {
    const logits = row.logits();
    processors.forEachChanged((id) => {
      const score = processors.score(id, logits[id]!);
      others -= Math.exp(logits[id]! - best);
      // Listed, so its processed score is subtracted.
      if (score > lastLogit || row.isCandidate(id, logits[id]!)) others += Math.exp(score - best);
      else changed += weightOf(tempered(score, temperature), top);
    });
  }
  others = Math.max(0, others);
  const error = total * (LOG_SUM_EXP_ERROR.absolute + LOG_SUM_EXP_ERROR.relative * Math.abs(logSumExp));
  if (temperature === 1) return { bound, weight: others + changed, error, moment: NaN };
  // Scores after temperature are rounded to fp32: 2^-24 of their size, which their exp multiplies.
  const rounding = 1 + 1e-6 * (1 + Math.abs(bound) + Math.abs(top));
  const most = (others + error) * Math.exp((lastLogit - best) * (1 / temperature - 1)) * rounding;
  return { bound, weight: most / 2 + changed, error: most / 2 + changed * (rounding - 1), moment: NaN };
}

function nothingMayCome(): PrefixdError {
  return new PrefixdError("invalid_parameter", "No token may come next: the request's processors forbid all of them.");
}
