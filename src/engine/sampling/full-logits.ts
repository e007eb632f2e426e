/** The exact path over a whole row of logits: all scores, and lists of the tokens that a choice may need. */
import type { LogitsProcessors } from "./processors.ts";
import { sortDescending } from "./radix-sort.ts";
import { BINS_ERROR, ScoreBins } from "./score-bins.ts";
import type { WarpedTokens, Warpers } from "./warped-tokens.ts";
import { NEAR, weightOf } from "./probability.ts";

/** Margins beyond what is needed, as a share of the probability and in nats, so that rounding rarely decides. */
const SLACK = { share: 1e-5, depth: 0.1 };

/** One row's scores after all processors; its memory, sized for the vocabulary, is reused for every row. */
export class FullScores {
  readonly scores: Float32Array;
  readonly #bins = new ScoreBins();
  /** Highest score, and the lowest id that has it; -Infinity and -1 if no token may come. */
  best = -Infinity;
  bestId = -1;
  /** A score is NaN; then nothing else may be used. */
  broken = false;

  constructor(vocabSize: number) {
    this.scores = new Float32Array(vocabSize);
  }

  /** Takes a row of logits through the processors, divides by the temperature, and finds the best. */
  load(logits: Float32Array, processors: LogitsProcessors, temperature: number): void {
    this.scores.set(logits);
    this.#process(processors, temperature);
  }

  /** The same with the row's log-softmax instead of its logits. */
  loadLogprobs(logits: Float32Array, logSumExp: number, processors: LogitsProcessors, temperature: number): void {
    for (let id = 0; id < logits.length; id++) this.scores[id] = logits[id]! - logSumExp;
    this.#process(processors, temperature);
  }

  /** Makes the scores a log-softmax again. */
  normalise(): void {
    const { scores, best } = this;
    let mass = 0;
    for (let id = 0; id < scores.length; id++) mass += weightOf(scores[id]!, best);
    const logMass = Math.fround(Math.log(mass));
    for (let id = 0; id < scores.length; id++) scores[id] = Math.fround(scores[id]! - best) - logMass;
    this.best = 0 - logMass;
  }

  #process(processors: LogitsProcessors, temperature: number): void {
    const { scores } = this;
    processors.apply(scores);
    const divisor = Math.fround(temperature);
    if (divisor !== 1) for (let id = 0; id < scores.length; id++) scores[id] = scores[id]! / divisor;
    let best = -Infinity;
    let bestId = -1;
    let broken = false;
    for (let id = 0; id < scores.length; id++) {
      const score = scores[id]!;
      if (score > best) {
        best = score;
        bestId = id;
      } else if (Number.isNaN(score)) broken = true;
    }
    this.best = best;
    this.bestId = bestId;
    this.broken = broken;
  }

  /** Fills the list with at least the k best tokens and all ties with the k-th: enough for top_k only. */
  listTop(k: number, list: WarpedTokens): void {
    this.#bins.count(this.scores, this.best);
    const bin = this.#bins.binOfCount(k);
    if (bin < 0) return this.listAll(list);
    list.reset();
    this.#bins.pick(0, bin, this.scores, this.best, list);
    sort(list);
  }

  /**
   * Fills the list with as many of the likeliest tokens as these warpers (no top_k) very likely need, and records what
   * is left out.
   */
  listFor(warpers: Warpers, list: WarpedTokens): void {
    const bins = this.#bins;
    bins.weigh(this.scores, this.best, true);
    const bin = this.#depthFor(warpers);
    list.reset();
    bins.pick(0, bin, this.scores, this.best, list);
    sort(list);
    // Everything left out is lower than everything listed by at least 2^-24 of its size.
    const lowest = list.scores[list.length - 1]!;
    const bound = Math.min(
      lowest - Math.max(Math.abs(lowest) * 2 ** -25, Number.MIN_VALUE),
      bins.boundAfter(bin, this.best),
    );
    list.outside = { bound, error: BINS_ERROR * bins.total, ...bins.after(bin) };
  }

  #depthFor({ topP, minP, typicalP, epsilonCutoff, etaCutoff }: Warpers): number {
    const bins = this.#bins;
    const { entropy, total } = bins;
    const binOfProbability = (p: number): number => bins.binOfDepth(SLACK.depth - Math.log(p * total));
    if (topP < 1) return bins.binOfWeight((topP + SLACK.share) * total);
    if (minP > 0) return bins.binOfDepth(SLACK.depth - Math.log(minP));
    if (typicalP < 1)
      return Math.min(bins.last, 2 + bins.binOfNearest(entropy - Math.log(total), (typicalP + SLACK.share) * total));
    if (epsilonCutoff > 0) return binOfProbability(epsilonCutoff);
    return etaCutoff > 0 ? binOfProbability(Math.min(etaCutoff, Math.sqrt(etaCutoff) * Math.exp(-entropy))) : bins.last;
  }

  /**
   * What `WarpedTokens` would draw at `u` after top_p and no other warper, or -1 if rounding might decide: without
   * sorting more than the bin in which top_p cuts and the one in which the draw falls. `list` is used as memory.
   */
  drawNucleus(topP: number, u: number, list: WarpedTokens): number {
    const bins = this.#bins;
    bins.weigh(this.scores, this.best, false);
    const kept = topP < 1 ? this.#nucleus(topP, list) : bins.total;
    const aim = u * kept;
    const bin = bins.binOfWeight(aim);
    this.#listBin(bin, list);
    const error = 2 * BINS_ERROR * bins.total;
    let sum = bins.before(bin);
    if (Number.isNaN(kept) || (bin > 0 && aim < sum + error)) return -1;
    for (let i = 0; i < list.length; i++) {
      sum += weightOf(list.scores[i]!, this.best);
      if (aim < sum - error) return list.ids[i]!;
      if (aim < sum + error) return -1;
    }
    return -1;
  }

  /** Weight of what top_p keeps, as `WarpedTokens` does; NaN if rounding might decide. */
  #nucleus(topP: number, list: WarpedTokens): number {
    const bins = this.#bins;
    const limit = Math.fround(1 - topP);
    const bin = bins.binOfWeight(topP * bins.total);
    this.#listBin(bin, list);
    let dropped = bins.after(bin).weight;
    for (let i = list.length - 1; i >= 0; i--) {
      const weight = weightOf(list.scores[i]!, this.best);
      const distance = (dropped + weight) / bins.total - limit;
      if (Math.abs(distance) < NEAR * limit + BINS_ERROR) return NaN;
      if (distance > 0) return bins.total - dropped;
      dropped += weight;
    }
    return NaN;
  }

  #listBin(bin: number, list: WarpedTokens): void {
    list.reset();
    this.#bins.pick(bin, bin, this.scores, this.best, list);
    sort(list);
  }

  /** Fills the list with every token that has any probability. */
  listAll(list: WarpedTokens): void {
    list.reset();
    for (let id = 0; id < this.scores.length; id++)
      if (this.scores[id] !== -Infinity) append(list, id, this.scores[id]!);
    sort(list);
  }
}

/**
 * Fills the list with every token whose processed score, before temperature, is at least `floor`, in one pass. Returns
 * false if a score is NaN.
 */
export function listAtLeast(
  floor: number,
  logits: Float32Array,
  processors: LogitsProcessors,
  list: WarpedTokens,
): boolean {
  list.reset();
  for (let id = 0; id < logits.length; id++) if (!(logits[id]! < floor)) list.ids[list.length++] = id;
  const found = list.length;
  list.length = 0;
  for (let i = 0; i < found; i++) {
    const id = list.ids[i]!;
    if (Number.isNaN(logits[id])) return false;
    const score = processors.score(id, logits[id]!);
    if (score >= floor) append(list, id, score);
  }
  if (processors.mayRaise) {
    processors.forEachChanged((id) => {
      const score = processors.score(id, logits[id]!);
      if (logits[id]! < floor && score >= floor) append(list, id, score);
    });
  }
  sort(list);
  // Raised tokens came last.
  if (processors.mayRaise) list.orderTies();
  return true;
}

/**
 * Fills the list with these tokens, which are all that a constraint allows. `ids` ascend; `offset` is subtracted from logits first.
 * Returns false if a score is NaN.
 */
export function listOnly(
  ids: Int32Array,
  logits: Float32Array,
  processors: LogitsProcessors,
  offset: number,
  list: WarpedTokens,
): boolean {
  list.reset();
  for (const id of ids) {
    const logit = logits[id]!;
    if (Number.isNaN(logit)) return false;
    const score = processors.scoreAllowed(id, Math.fround(logit - offset));
    if (score !== -Infinity) append(list, id, score);
  }
  sort(list);
  return true;
}

/** At its end; among equal scores ids come in ascending order. */
function append(list: WarpedTokens, id: number, score: number): void {
  list.ids[list.length] = id;
  list.scores[list.length++] = score;
}

function sort(list: WarpedTokens): void {
  sortDescending(list.scores.subarray(0, list.length), list.ids.subarray(0, list.length));
}
