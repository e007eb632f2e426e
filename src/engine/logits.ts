/**
 * transformers' logits processors and warpers (generation/logits_process.py) in fp32. Scores are fp32 as there: every step that
 * torch rounds is rounded here. Order: repetition penalty, min_new_tokens, temperature | top_k, top_p, min_p.
 */
import type { SamplingParams } from "./request.ts";

/** What a token's score is changed by, each on its own; `seen`: prompt and generated ids, `masked`: ids that may not come yet. */
export interface Processing {
  readonly temperature: number;
  readonly repetitionPenalty: number;
  readonly seen: ReadonlySet<number>;
  readonly masked: readonly number[];
}

export type Warpers = Pick<SamplingParams, "topK" | "topP" | "minP">;

/** One token's score after repetition penalty and mask, before temperature. */
export function processedScore(logit: number, id: number, { repetitionPenalty, seen, masked }: Processing): number {
  if (masked.length > 0 && masked.includes(id)) return -Infinity;
  // torch divides and multiplies by the fp32 value of the penalty.
  if (repetitionPenalty === 1 || !seen.has(id)) return logit;
  const penalty = Math.fround(repetitionPenalty);
  return Math.fround(logit < 0 ? logit * penalty : logit / penalty);
}

export function tempered(score: number, temperature: number): number {
  return temperature === 1 ? score : Math.fround(score / Math.fround(temperature));
}

/**
 * Some tokens of a row with their processed scores, in descending order, equal scores by ascending id. It knows what it leaves
 * out, so each step can tell whether the tokens here suffice to decide exactly; if not it answers false or -1, and the caller
 * comes again with more tokens. Arrays are as long as the vocabulary and are reused.
 */
export class Shortlist {
  readonly ids: Int32Array;
  readonly scores: Float32Array;
  /** exp(score - best score), set by `warp`. */
  readonly weights: Float64Array;
  length = 0;
  /** No token left out scores higher; -Infinity if none with any probability is left out. */
  bound = -Infinity;
  /** Sum of the weights left out; NaN if not known. */
  outside = 0;
  /** `outside` is at most this far off; 0 if nothing is left out. */
  outsideError = 0;

  constructor(capacity: number) {
    this.ids = new Int32Array(capacity);
    this.scores = new Float32Array(capacity);
    this.weights = new Float64Array(capacity);
  }

  /** Starts anew with nothing in it and nothing left out. */
  reset(): void {
    this.#closeAt(0);
  }

  /** Says what is left out. */
  leaveOut(bound: number, outside: number, outsideError: number): void {
    this.bound = bound;
    this.outside = outside;
    this.outsideError = outsideError;
  }

  /** Adds a token in its place; cheap if tokens come nearly in order. -0 counts as 0, as in comparisons. */
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

  /** Applies top_k, top_p and min_p, each to what the one before left. False: not decidable with these tokens. */
  warp({ topK, topP, minP }: Warpers): boolean {
    if (topK > 0 && !this.#keepTopK(topK)) return false;
    const best = this.scores[0]!;
    for (let i = 0; i < this.length; i++) this.weights[i] = weightOf(this.scores[i]!, best);
    if (topP < 1 && !this.#keepTopP(topP)) return false;
    return minP <= 0 || this.#keepMinP(minP);
  }

  /** The token at `u` in [0, 1) of the distribution function in this order; -1: not decidable with these tokens. */
  draw(u: number): number {
    const mass = this.#mass();
    const low = u * (mass - this.outsideError);
    const high = u * (mass + this.outsideError);
    let sum = 0;
    for (let i = 0; i < this.length; i++) {
      sum += this.weights[i]!;
      // At or below the bound, tokens left out would come between those here.
      if (low < sum) return high < sum && (this.#complete || this.scores[i]! > this.bound) ? this.ids[i]! : -1;
    }
    // u so near to 1 that rounding decides: the last token with any probability.
    return this.#complete ? this.ids[this.length - 1]! : -1;
  }

  get #complete(): boolean {
    return this.bound === -Infinity;
  }

  /** All weights, those left out included. */
  #mass(): number {
    let sum = 0;
    for (let i = 0; i < this.length; i++) sum += this.weights[i]!;
    return sum + this.outside;
  }

  #closeAt(length: number): void {
    this.length = length;
    this.bound = -Infinity;
    this.outside = 0;
    this.outsideError = 0;
  }

  /** Keeps what scores at least the k-th best: all equal to it stay. */
  #keepTopK(k: number): boolean {
    if (k > this.length) return this.#complete;
    const kth = this.scores[k - 1]!;
    if (!(kth > this.bound)) return false;
    let end = k;
    while (end < this.length && this.scores[end] === kth) end++;
    this.#closeAt(end);
    return true;
  }

  /**
   * Drops tokens from the least likely up while their fp32 probabilities add up to at most 1 - p; the best always stays. Sums
   * are in double and compared in fp32, as in torch. Which of equal tokens go is undefined there (its sort is not stable):
   * here the higher ids, as in every other tie.
   */
  #keepTopP(p: number): boolean {
    if (Number.isNaN(this.outside)) return false;
    const mass = this.#mass();
    const limit = Math.fround(1 - p);
    // What is left out is one sum here instead of many fp32 probabilities: no decision as near to the limit as that matters.
    const margin = this.#complete ? 0 : this.outsideError / mass + 2e-6;
    let sum = this.outside / mass;
    if (margin > 0 && sum > limit - margin) return false;
    let end = this.length;
    while (end > 1) {
      sum += Math.fround(this.weights[end - 1]! / mass);
      if (margin > 0 && Math.abs(sum - limit) < margin) return false;
      if (Math.fround(sum) > limit) break;
      end--;
    }
    // A token left out that equals the last one kept might have a lower id.
    if (!(this.scores[end - 1]! > this.bound)) return false;
    this.#closeAt(end);
    return true;
  }

  /** Keeps what is at least `minP` times as likely as the best. */
  #keepMinP(minP: number): boolean {
    const limit = Math.fround(minP);
    // A weight is p / p(best): comparing weights is comparing probabilities.
    if (!this.#complete && weightOf(this.bound, this.scores[0]!) >= limit * (1 - 1e-5)) return false;
    let end = this.length;
    while (end > 1 && Math.fround(this.weights[end - 1]!) < limit) end--;
    this.#closeAt(end);
    return true;
  }
}

/** exp of the fp32 difference to the best score. */
export function weightOf(score: number, best: number): number {
  return Math.exp(Math.fround(score - best));
}
