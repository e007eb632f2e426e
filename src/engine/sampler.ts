import { PrefixdError } from "../errors.ts";
import { FullScores } from "./full-logits.ts";
import { type Processing, processedScore, Shortlist, tempered, type Warpers } from "./logits.ts";
import type { StepOutput } from "./model-runner.ts";
import { uniform } from "./random.ts";
import type { SamplingParams, TokenLogprob } from "./request.ts";

/** Tokens this much below the best score (weight 6e-6) are looked at only if the others do not decide. */
const FIRST_LOOK = 12;
/** Error allowed for the model's fp32 log-sum-exp: its kernel's, and a few units in the last place (2^-23 of its size). */
const LOG_SUM_EXP_ERROR = { absolute: 1e-5, relative: 5e-7 };
const NONE: readonly TokenLogprob[] = Object.freeze([]);

/** Memory for rows of one vocabulary size; choosing is synchronous, so all samplers share it. */
interface Scratch {
  readonly full: FullScores;
  readonly list: Shortlist;
}

const scratches = new Map<number, Scratch>();

/**
 * Chooses one choice's tokens as transformers' `generate()` does: fp32 processors in its order, arg max with the lowest id on
 * ties, or one draw from the resulting distribution. The model's few best candidates decide where that is provably exact,
 * all logits where not; the result is the same.
 *
 * Draws go by the inverse distribution function over tokens in descending order of probability (ties by id), with one number
 * per token that depends only on seed, choice and the token's index.
 */
export class Sampler {
  readonly #params: SamplingParams;
  readonly #seed: number;
  readonly #choice: number;
  readonly #eosIds: readonly number[];
  /** Prompt and generated ids, for the repetition penalty; stays empty without one. */
  readonly #seen: Set<number>;
  #generated = 0;

  constructor(params: SamplingParams, seed: number, choice: number, promptIds: Int32Array, eosIds: readonly number[]) {
    this.#params = params;
    this.#seed = seed;
    this.#choice = choice;
    this.#eosIds = eosIds;
    this.#seen = new Set(params.repetitionPenalty === 1 ? [] : promptIds);
  }

  /**
   * The next token from row `row` of a step, with its logprob and the `topLogprobs` likeliest ones, all raw: before processors.
   * `topLogprobs` is at most the number of candidates. Throws `model_failed` if the row's logits are not numbers.
   */
  next(output: StepOutput, row: number, topLogprobs: number): { id: number; logprob: number; top: readonly TokenLogprob[] } {
    const { topLogits, topIds, logSumExp } = output;
    // The buffers may be longer than `rows`, all by the same factor.
    const candidates = topIds.length / logSumExp.length;
    const from = row * candidates;
    const sum = logSumExp[row]!;
    if (!Number.isFinite(sum) || !Number.isFinite(topLogits[from])) throw notFinite();
    const id = this.#choose(output, row, from, candidates);
    this.#generated++;
    if (this.#params.repetitionPenalty !== 1) this.#seen.add(id);

    return reportOf(output, row, id, topLogprobs);
  }

  #choose(output: StepOutput, row: number, from: number, candidates: number): number {
    const masked = this.#generated < this.#params.minNewTokens ? this.#eosIds : [];
    const { doSample, repetitionPenalty, temperature } = this.#params;
    if (!doSample && masked.length === 0 && repetitionPenalty === 1) return output.topIds[from]!;
    const processing: Processing = { temperature, repetitionPenalty, seen: this.#seen, masked };
    const u = doSample ? uniform(this.#seed, this.#choice, this.#generated) : 0;
    const id = this.#chooseFromCandidates(output, row, from, candidates, processing, u);
    return id === -1 ? this.#chooseFromAll(output.logits(row), processing, u) : id;
  }

  /** -1 if the candidates do not decide. */
  #chooseFromCandidates(output: StepOutput, row: number, from: number, candidates: number, processing: Processing, u: number): number {
    const { topLogits, topIds, logSumExp } = output;
    const { temperature, repetitionPenalty } = processing;
    // A penalty below 1 could lift a token from outside; above, and masks, only lower scores.
    if (repetitionPenalty < 1) return -1;
    const { list } = scratchFor(candidates);
    const lastLogit = topLogits[from + candidates - 1]!;
    list.reset();
    for (let i = from; i < from + candidates; i++) {
      const score = processedScore(topLogits[i]!, topIds[i]!, processing);
      if (score !== -Infinity) list.insert(topIds[i]!, score);
    }
    if (list.length === 0 || !(list.scores[0]! > lastLogit)) return -1;
    if (!this.#params.doSample) return list.ids[0]!;

    const best = list.scores[0]!;
    if (!Number.isFinite(tempered(best, temperature))) return list.ids[0]!;
    // Dividing keeps the order, though it can make scores equal; so the bound is divided as well.
    for (let i = 0; i < list.length; i++) list.scores[i] = tempered(list.scores[i]!, temperature);
    list.bound = tempered(lastLogit, temperature);
    estimateOutside(list, topLogits.subarray(from, from + candidates), logSumExp[row]!, best, processing);
    return list.warp(this.#params) ? list.draw(u) : -1;
  }

  #chooseFromAll(logits: Float32Array, processing: Processing, u: number): number {
    const { full, list } = scratchFor(logits.length);
    full.load(logits, processing);
    if (full.bestId === -1) throw notFinite();
    // A temperature near 0 that overflows fp32 is the greedy limit.
    if (!this.#params.doSample || !Number.isFinite(tempered(full.best, processing.temperature))) return full.bestId;
    full.temper(processing.temperature);
    const id = drawFromAll(full, list, this.#params, u);
    if (id === -1) throw notFinite();
    return id;
  }
}

/** Draws from processed scores of the whole vocabulary: first from its likely part, then, if that does not decide, from all. */
function drawFromAll(full: FullScores, list: Shortlist, warpers: Warpers, u: number): number {
  if (warpers.topK > 0) full.listTop(warpers.topK, list);
  else full.listAbove(full.best - FIRST_LOOK, list);
  const id = list.warp(warpers) ? list.draw(u) : -1;
  if (id !== -1) return id;
  full.listAbove(-Infinity, list);
  list.warp(warpers);
  return list.draw(u);
}

/**
 * How much the tokens weigh that are no candidates, from the model's log-sum-exp: nearly exact if scores are the raw logits,
 * else an upper bound. With scores s <= logits l < best and T <= 1,
 * sum exp((s - best) / T) <= sum exp(l - best) * exp((last - best) * (1 / T - 1)), `last` being the last candidate's logit.
 */
function estimateOutside(list: Shortlist, topLogits: Float32Array, logSumExp: number, best: number, processing: Processing): void {
  const { temperature, repetitionPenalty, masked } = processing;
  const { bound } = list;
  // A cold temperature has left them no weight at all.
  if (bound === -Infinity) return;
  if (temperature > 1) return list.leaveOut(bound, NaN, NaN);
  const { absolute, relative } = LOG_SUM_EXP_ERROR;
  const total = Math.exp(logSumExp - best);
  const error = total * (absolute + relative * Math.abs(logSumExp));
  let outside = total;
  for (const logit of topLogits) outside -= Math.exp(logit - best);
  outside = Math.max(0, outside);
  if (temperature === 1 && repetitionPenalty === 1 && masked.length === 0) return list.leaveOut(bound, outside, error);
  const last = topLogits[topLogits.length - 1]!;
  // Scores after temperature are rounded to fp32: 2^-24 of their size, which their exp multiplies.
  const rounding = 1 + 1e-6 * (1 + Math.abs(bound) + Math.abs(tempered(best, temperature)));
  const most = (outside + error) * Math.exp((last - best) * (1 / temperature - 1)) * rounding;
  list.leaveOut(bound, most / 2, most / 2);
}

/** What is told of a token that a row's logits led to: its logprob and the `topLogprobs` likeliest ones, raw. */
export function reportOf(output: StepOutput, row: number, id: number, topLogprobs: number): { id: number; logprob: number; top: readonly TokenLogprob[] } {
  const { topLogits, topIds, logSumExp } = output;
  const candidates = topIds.length / logSumExp.length;
  const from = row * candidates;
  let at = from;
  while (at < from + candidates && topIds[at] !== id) at++;
  const logit = at < from + candidates ? topLogits[at]! : output.logits(row)[id]!;
  return { id, logprob: logprobOf(logit, logSumExp[row]!), top: topLogprobs === 0 ? NONE : topOf(output, row, from, topLogprobs) };
}

function topOf({ topLogits, topIds, logSumExp }: StepOutput, row: number, from: number, count: number): TokenLogprob[] {
  return Array.from({ length: count }, (_, i) => ({ id: topIds[from + i]!, logprob: logprobOf(topLogits[from + i]!, logSumExp[row]!) }));
}

/** Log-softmax; rounding of the log-sum-exp must not make it positive. */
export function logprobOf(logit: number, logSumExp: number): number {
  return Math.min(0, logit - logSumExp);
}

export function scratchFor(size: number): Scratch {
  let scratch = scratches.get(size);
  if (scratch === undefined) {
    scratch = { full: new FullScores(size), list: new Shortlist(size) };
    scratches.set(size, scratch);
  }
  return scratch;
}

export function notFinite(): PrefixdError {
  return new PrefixdError("model_failed", "The model's logits are not finite numbers; the prefix or the prompt leads it out of range.");
}
