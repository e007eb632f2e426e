/** Bins per nat below the best score, and nats that they cover. What lies deeper weighs less than 1e-21 altogether. */
const PER_NAT = 32;
const DEPTH = 64;
const BINS = PER_NAT * DEPTH;
const SCALES = Float64Array.from({ length: BINS }, (_, bin) => Math.exp(-bin / PER_NAT));
/**
 * Of the sum of all weights: the series' first term left out, (1/32)^5 / 120, is 2.5e-10, and the rounding of 10^6
 * doubles less.
 */
export const BINS_ERROR = 1e-9;

/** Token ids and scores in the caller's memory. */
export interface ScoreList {
  readonly ids: Int32Array;
  readonly scores: Float32Array;
  length: number;
}

/**
 * A histogram of a row's scores by their distance to the best: how many tokens lie how deep, and what they weigh,
 * without sorting. A bin adds up exp(offset within it) by its series, so no exp is needed per token. Bin b holds
 * fround(best - score) in [b / 32, (b + 1) / 32), so every score in it is higher than every score in later ones.
 */
export class ScoreBins {
  readonly #counts = new Int32Array(BINS);
  readonly #weights = new Float64Array(BINS);
  readonly #moments = new Float64Array(BINS);
  readonly last = BINS - 1;
  /** Sum of all weights exp(score - best). */
  total = 0;
  /** Sum of all weights times (score - best). */
  moment = 0;

  /** Counts tokens, for `binOfCount`. */
  count(scores: Float32Array, best: number): void {
    const counts = this.#counts.fill(0);
    for (let id = 0; id < scores.length; id++) {
      const depth = Math.fround(best - scores[id]!);
      if (depth < DEPTH) counts[(depth * PER_NAT) | 0]!++;
    }
  }

  /** Weighs tokens, for everything else. With `moments`, also for `entropy` and the moment of `after`. */
  weigh(scores: Float32Array, best: number, moments: boolean): void {
    const weightOf = this.#weights.fill(0);
    const momentOf = this.#moments.fill(0);
    for (let id = 0; id < scores.length; id++) {
      const depth = Math.fround(best - scores[id]!);
      if (!(depth < DEPTH)) continue;
      const bin = (depth * PER_NAT) | 0;
      const x = bin / PER_NAT - depth;
      const weight = 1 + x * (1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24))));
      weightOf[bin]! += weight;
      if (moments) momentOf[bin]! += weight * x;
    }
    this.total = 0;
    this.moment = 0;
    for (let bin = 0; bin < BINS; bin++) {
      weightOf[bin]! *= SCALES[bin]!;
      momentOf[bin] = SCALES[bin]! * momentOf[bin]! - (weightOf[bin]! * bin) / PER_NAT;
      this.total += weightOf[bin]!;
      this.moment += momentOf[bin]!;
    }
  }

  /** Shannon's, in nats. */
  get entropy(): number {
    return Math.log(this.total) - this.moment / this.total;
  }

  /** First bin at which the best `count` tokens are in; -1 if the bins hold fewer. */
  binOfCount(count: number): number {
    let sum = 0;
    for (let bin = 0; bin < BINS; bin++) {
      sum += this.#counts[bin]!;
      if (sum >= count) return bin;
    }
    return -1;
  }

  /** First bin at which the weight from the best down exceeds this; the last bin if it never does. */
  binOfWeight(weight: number): number {
    let sum = 0;
    for (let bin = 0; bin < BINS; bin++) {
      sum += this.#weights[bin]!;
      if (sum > weight) return bin;
    }
    return this.last;
  }

  /** Bin of a weight; the last bin if the weight is too small for any. */
  binOfDepth(depth: number): number {
    return depth < DEPTH ? Math.max(0, Math.floor(depth * PER_NAT)) : this.last;
  }

  /** The deepest bin of those nearest to a depth which together have this weight. */
  binOfNearest(depth: number, weight: number): number {
    let [above, below] = [this.binOfDepth(depth), this.binOfDepth(depth)];
    let sum = this.#weights[below]!;
    while (sum < weight && below < this.last) {
      sum += this.#weights[++below]!;
      if (above > 0) sum += this.#weights[--above]!;
    }
    return below;
  }

  /** Nothing in later bins scores higher than this. */
  boundAfter(bin: number, best: number): number {
    return best - (bin + 1) / PER_NAT + Math.abs(best) * 2 ** -22;
  }

  /** Weight and moment of all bins after this one. */
  after(bin: number): { weight: number; moment: number } {
    let weight = 0;
    let moment = 0;
    for (let i = BINS - 1; i > bin; i--) {
      weight += this.#weights[i]!;
      moment += this.#moments[i]!;
    }
    return { weight, moment };
  }

  /** Weight of all bins before this one. */
  before(bin: number): number {
    let weight = 0;
    for (let i = 0; i < bin; i++) weight += this.#weights[i]!;
    return weight;
  }

  /** Fills the list with the tokens of bins `[from, to]`, in ascending order of id. */
  pick(from: number, to: number, scores: Float32Array, best: number, list: ScoreList): void {
    const [low, high] = [from / PER_NAT, (to + 1) / PER_NAT];
    list.length = 0;
    for (let id = 0; id < scores.length; id++) {
      const depth = Math.fround(best - scores[id]!);
      if (!(depth < high) || depth < low) continue;
      list.ids[list.length] = id;
      list.scores[list.length++] = scores[id]!;
    }
  }
}
