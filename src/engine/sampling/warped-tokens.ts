/**
 * transformers' logits warpers (generation/logits_process.py), which leave tokens out before one is drawn, in fp32:
 * every step that torch rounds is rounded here. Order: top_h, top_k, top_p, min_p, typical_p, epsilon_cutoff,
 * eta_cutoff, each on what the one before left.
 */
import type { SamplingParams } from "../request.ts";
import { NEAR, NOTHING, type Outside, tempered, weightOf } from "./probability.ts";

export type Warpers = Pick<
  SamplingParams,
  "topH" | "topK" | "topP" | "minP" | "typicalP" | "epsilonCutoff" | "etaCutoff"
>;

/** top_h chooses among this many of the likeliest. */
export const TOP_H_TOKENS = 100;

const { fround } = Math;

/**
 * Some tokens of a row with their processed scores, in descending order, equal scores by ascending id. It tracks what
 * it leaves out, so each step can tell whether its tokens suffice for an exact decision; if not, it returns false or -1
 * and the caller retries with more tokens. Arrays have room for `capacity` tokens and are reused.
 */
export class WarpedTokens {
  readonly ids: Int32Array;
  readonly scores: Float32Array;
  /** exp(score - best score), set by `warp`. */
  readonly weights: Float64Array;
  length = 0;
  outside: Outside = NOTHING;

  constructor(capacity: number) {
    this.ids = new Int32Array(capacity);
    this.scores = new Float32Array(capacity);
    this.weights = new Float64Array(capacity);
  }

  /** Empties the list, with nothing left out. */
  reset(): void {
    this.#closeAt(0);
  }

  /** Inserts a token in order; cheap if tokens come nearly in order. -0 counts as 0, as in comparisons. */
  insert(id: number, score: number): void {
    let at = this.length++;
    for (; at > 0; at--) {
      const before = this.scores[at - 1]!;
      if (before > score || (before === score && this.ids[at - 1]! < id)) break;
      this.scores[at] = before;
      this.ids[at] = this.ids[at - 1]!;
    }
    this.scores[at] = score + 0;
    this.ids[at] = id;
  }

  /** Divides all scores by the temperature, which can make them equal. */
  temper(temperature: number): void {
    if (temperature === 1) return;
    for (let i = 0; i < this.length; i++) this.scores[i] = tempered(this.scores[i]!, temperature);
    this.orderTies();
  }

  /** Puts equal scores, already beside each other, into ascending order of id. */
  orderTies(): void {
    const { ids, scores } = this;
    for (let from = 0, to = 1; from < this.length; from = to++) {
      let ordered = true;
      for (; to < this.length && scores[to] === scores[from]; to++) ordered &&= ids[to - 1]! < ids[to]!;
      if (!ordered) ids.subarray(from, to).sort();
    }
  }

  /**
   * Applies all warpers. At least `keep` tokens stay (with top_h: one), as transformers demands for beams. Returns
   * false if these tokens do not suffice to decide.
   */
  warp({ topH, topK, topP, minP, typicalP, epsilonCutoff, etaCutoff }: Warpers, keep = 1): boolean {
    if (topH !== null && !this.#keepTopH(topH)) return false;
    if (topK > 0 && !this.#keepTopK(Math.max(topK, keep))) return false;
    if (this.length < keep && !this.complete) return false;
    this.#weigh();
    if (topP < 1 && !this.#keepTopP(topP, keep)) return false;
    if (minP > 0 && !this.#keepMinP(minP, keep)) return false;
    if (typicalP < 1 && !this.#keepTypical(typicalP, keep)) return false;
    if (epsilonCutoff > 0 && !this.#keepLikely(epsilonCutoff, keep)) return false;
    return etaCutoff <= 0 || this.#keepEta(etaCutoff, keep);
  }

  /** The token at `u` in [0, 1) of the distribution function in this order; -1: not decidable with these tokens. */
  draw(u: number): number {
    const mass = this.#mass();
    const low = u * (mass - this.outside.error);
    const high = u * (mass + this.outside.error);
    let sum = 0;
    for (let i = 0; i < this.length; i++) {
      sum += this.weights[i]!;
      // At or below the bound, tokens left out would lie between these.
      if (low < sum) return high < sum && (this.complete || this.scores[i]! > this.outside.bound) ? this.ids[i]! : -1;
    }
    // u is so close to 1 that rounding decides: take the last token with any probability.
    return this.complete ? this.ids[this.length - 1]! : -1;
  }

  /** Makes the scores of a list that leaves nothing out a log-softmax. */
  normalise(): void {
    if (this.length === 0) return;
    const best = this.scores[0]!;
    this.#weigh();
    const logMass = fround(Math.log(this.#mass()));
    for (let i = 0; i < this.length; i++) this.scores[i] = fround(this.scores[i]! - best) - logMass;
  }

  /** Whether nothing with any probability is left out. */
  get complete(): boolean {
    return this.outside.bound === -Infinity;
  }

  #weigh(): void {
    const best = this.scores[0]!;
    for (let i = 0; i < this.length; i++) this.weights[i] = weightOf(this.scores[i]!, best);
  }

  /** Sum of all weights, including those left out. */
  #mass(): number {
    let sum = 0;
    for (let i = 0; i < this.length; i++) sum += this.weights[i]!;
    return sum + this.outside.weight;
  }

  /** Shannon's, in nats: log(mass) minus the mean of score - best. NaN if not known. */
  #entropy(mass: number): number {
    let moment = this.outside.moment;
    // A weight of 0 adds nothing, however low its score.
    for (let i = 1; i < this.length && this.weights[i]! > 0; i++)
      moment += this.weights[i]! * fround(this.scores[i]! - this.scores[0]!);
    return Math.log(mass) - moment / mass;
  }

  #closeAt(length: number): void {
    this.length = length;
    this.outside = NOTHING;
  }

  /**
   * Of the 100 likeliest, taken for all there is, keeps the first ones while their terms -p log p of the entropy add up
   * to at most the share `topH` of it; the best always stays. Sums are in double and compared in fp32.
   */
  #keepTopH(topH: number): boolean {
    const count = Math.min(TOP_H_TOKENS, this.length);
    if (!this.complete && (count < TOP_H_TOKENS || !(this.scores[count - 1]! > this.outside.bound))) return false;
    this.#closeAt(count);
    this.#weigh();
    const mass = this.#mass();
    const limit = fround(fround(this.#entropy(mass)) * fround(topH));
    let sum = 0;
    let end = 0;
    for (; end < count; end++) {
      const p = fround(this.weights[end]! / mass);
      // A probability of 0 gives a NaN term, which ends the loop.
      sum += fround(-p * fround(Math.log(p)));
      if (end > 0 && !(fround(sum) <= limit)) break;
    }
    this.#closeAt(end);
    return true;
  }

  /** Keeps scores of at least the k-th best; all equal to it stay. */
  #keepTopK(k: number): boolean {
    if (k > this.length) return this.complete;
    const kth = this.scores[k - 1]!;
    if (!(kth > this.outside.bound)) return false;
    let end = k;
    while (end < this.length && this.scores[end] === kth) end++;
    this.#closeAt(end);
    return true;
  }

  /**
   * Drops tokens from the least likely up while their fp32 probabilities add up to at most 1 - p; the best ones always
   * stay. Sums are in double and compared in fp32, as in torch. Which of equal tokens go is undefined there (its sort
   * is not stable): here the higher ids, as in every other tie.
   */
  #keepTopP(p: number, keep: number): boolean {
    const { bound, weight, error } = this.outside;
    if (Number.isNaN(weight)) return false;
    const mass = this.#mass();
    const limit = fround(1 - p);
    // What is left out is one sum here instead of many fp32 probabilities: no decision as near to the limit as that
    // matters.
    const margin = this.complete ? 0 : error / mass + NEAR * limit;
    let sum = weight / mass;
    if (margin > 0 && sum > limit - margin) return false;
    let end = this.length;
    while (end > keep) {
      sum += fround(this.weights[end - 1]! / mass);
      if (margin > 0 && Math.abs(sum - limit) < margin) return false;
      if (fround(sum) > limit) break;
      end--;
    }
    // A token left out with the same score as the last one kept might have a lower id.
    if (!(this.scores[end - 1]! > bound)) return false;
    this.#closeAt(end);
    return true;
  }

  /** Keeps tokens at least `minP` times as likely as the best, and the best `keep`. */
  #keepMinP(minP: number, keep: number): boolean {
    const limit = fround(minP);
    // A weight is p / p(best): comparing weights is comparing probabilities.
    if (!this.complete && weightOf(this.outside.bound, this.scores[0]!) >= limit * (1 - 1e-5)) return false;
    let end = this.length;
    while (end > keep && fround(this.weights[end - 1]!) < limit) end--;
    if (!(this.scores[end - 1]! > this.outside.bound)) return false;
    this.#closeAt(end);
    return true;
  }

  /**
   * Keeps the tokens whose surprise -log p is nearest to the entropy, until their probabilities add up to `typicalP`;
   * all as near as the last one stay, and the nearest `keep`. They are neighbours in the list, though not always its
   * first ones.
   */
  #keepTypical(typicalP: number, keep: number): boolean {
    if (keep > 1 && !this.complete) return false;
    const mass = this.#mass();
    const entropy = this.#entropy(mass);
    if (Number.isNaN(entropy)) return false;
    const logMass = fround(Math.log(mass));
    /** Surprise minus entropy; ascends along the list. */
    const offset = (score: number): number =>
      fround(fround(logMass - fround(score - this.scores[0]!)) - fround(entropy));
    const distance = (i: number): number => (i >= 0 && i < this.length ? Math.abs(offset(this.scores[i]!)) : Infinity);

    // Take the nearest token from either side until the sum suffices.
    let right = 0;
    while (right < this.length && offset(this.scores[right]!) < 0) right++;
    let left = right - 1;
    let farthest = 0;
    let before = 0;
    let sum = 0;
    while ((left >= 0 || right < this.length) && fround(sum) < fround(typicalP)) {
      const next = distance(left) <= distance(right) ? left-- : right++;
      farthest = distance(next);
      before = sum;
      sum += fround(this.weights[next]! / mass);
    }
    while (left >= 0 && distance(left) <= farthest) left--;
    while (right < this.length && distance(right) <= farthest) right++;
    while (right - left - 1 < Math.min(keep, this.length))
      if (distance(left) <= distance(right)) left--;
      else right++;

    if (!this.complete) {
      const share = this.outside.error / mass + NEAR;
      const margin = share * (10 + farthest + entropy + logMass);
      // The sum must clearly suffice, and clearly not have sufficed before. Dropped and omitted tokens must be clearly
      // farther.
      if (sum - typicalP < share || typicalP - before < share) return false;
      if (Math.min(distance(left), distance(right), offset(this.outside.bound)) < farthest + margin) return false;
      // If the outermost tokens on both sides are almost equally far, their order is uncertain.
      const [first, last] = [left + 1, right - 1];
      if (this.scores[first] !== this.scores[last] && Math.abs(distance(first) - distance(last)) < margin) return false;
    }
    this.#keepOnly(left + 1, right);
    return true;
  }

  /**
   * Keeps tokens of at least this probability, and those that score as high as the `keep`-th best. `doubt`: extra
   * safety margin, relative to that of a probability.
   */
  #keepLikely(cutoff: number, keep: number, doubt = 1): boolean {
    const { bound, weight, error } = this.outside;
    const sure = this.scores[Math.min(keep, this.length) - 1]!;
    if (Number.isNaN(weight) || !(sure > bound)) return false;
    const mass = this.#mass();
    const limit = fround(cutoff);
    const margin = this.complete ? 0 : (error / mass + NEAR) * doubt;
    if (margin > 0 && weightOf(bound, this.scores[0]!) / mass >= limit * (1 - margin)) return false;
    let end = this.length;
    while (end > 1 && this.scores[end - 1]! < sure) {
      const p = fround(this.weights[end - 1]! / mass);
      if (Math.abs(p - limit) < limit * margin) return false;
      if (p >= limit) break;
      end--;
    }
    this.#closeAt(end);
    return true;
  }

  /** Keeps tokens of at least the probability min(eta, sqrt(eta) exp(-entropy)). */
  #keepEta(eta: number, keep: number): boolean {
    const entropy = this.#entropy(this.#mass());
    if (Number.isNaN(entropy)) return false;
    const epsilon = fround(eta);
    return this.#keepLikely(
      Math.min(epsilon, fround(fround(Math.sqrt(epsilon)) * fround(Math.exp(-fround(entropy))))),
      keep,
      10 + entropy,
    );
  }

  /** Drops all but `[from, to)`, and weighs what is left against its own best. */
  #keepOnly(from: number, to: number): void {
    this.ids.copyWithin(0, from, to);
    this.scores.copyWithin(0, from, to);
    this.#closeAt(to - from);
    this.#weigh();
  }
}
