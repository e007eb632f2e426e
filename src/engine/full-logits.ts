/** The exact path over a whole row of logits: processing, and the parts of it that a choice may need. */
import { type Processing, type Shortlist, tempered, weightOf } from "./logits.ts";

const BINS = 2048;
const BIN_SHIFT = 21;
/** Far more than the relative rounding of a sum of 10^6 doubles. */
const SUM_ERROR = 1e-9;

/** One row's scores after all processors; its memory, sized for the vocabulary, is reused for every row. */
export class FullScores {
  readonly #scores: Float32Array;
  /** The same memory as bit patterns. */
  readonly #bits: Uint32Array;
  readonly #counts = new Int32Array(BINS);
  readonly #keys: Uint32Array;
  readonly #keysTo: Uint32Array;
  readonly #idsTo: Int32Array;
  /** Highest score, and the lowest id that has it; the id is -1 if no token may come or a score is not a number. */
  best = -Infinity;
  bestId = -1;

  constructor(vocabSize: number) {
    this.#scores = new Float32Array(vocabSize);
    this.#bits = new Uint32Array(this.#scores.buffer);
    this.#keys = new Uint32Array(vocabSize);
    this.#keysTo = new Uint32Array(vocabSize);
    this.#idsTo = new Int32Array(vocabSize);
  }

  /** Takes a row of logits through repetition penalty and mask, and finds the best. */
  load(logits: Float32Array, processing: Processing): void {
    const scores = this.#scores;
    scores.set(logits);
    if (processing.repetitionPenalty !== 1) {
      const penalty = Math.fround(processing.repetitionPenalty);
      for (const id of processing.seen) {
        const logit = scores[id];
        if (logit !== undefined) scores[id] = logit < 0 ? logit * penalty : logit / penalty;
      }
    }
    for (const id of processing.masked) scores[id] = -Infinity;
    this.best = -Infinity;
    this.bestId = -1;
    for (let id = 0; id < scores.length; id++) {
      const score = scores[id]!;
      if (score > this.best) {
        this.best = score;
        this.bestId = id;
      } else if (Number.isNaN(score)) {
        this.bestId = -1;
        return;
      }
    }
  }

  /** Divides by the temperature; `+ 0` turns -0 into 0, whose bit patterns order as numbers do. */
  temper(temperature: number): void {
    const scores = this.#scores;
    if (temperature === 1) for (let id = 0; id < scores.length; id++) scores[id] = scores[id]! + 0;
    else {
      const divisor = Math.fround(temperature);
      for (let id = 0; id < scores.length; id++) scores[id] = scores[id]! / divisor + 0;
    }
    this.best = tempered(this.best, temperature);
  }

  /** Fills the list with at least the k best tokens and all equal to the k-th: enough for top_k, and only for that. */
  listTop(k: number, list: Shortlist): void {
    const counts = this.#counts.fill(0);
    const bits = this.#bits;
    for (let id = 0; id < bits.length; id++) counts[orderKey(bits[id]!) >>> BIN_SHIFT]!++;
    // Keys ascend as scores descend.
    let bin = 0;
    for (let sum = counts[0]!; sum < k && bin < BINS - 1; ) sum += counts[++bin]!;
    list.reset();
    for (let id = 0; id < bits.length; id++) {
      if (orderKey(bits[id]!) >>> BIN_SHIFT <= bin && this.#scores[id] !== -Infinity) list.ids[list.length++] = id;
    }
    this.#sort(list);
  }

  /** Fills the list with every token that scores at least `floor`, and tells it how much is left out. */
  listAbove(floor: number, list: Shortlist): void {
    const scores = this.#scores;
    list.reset();
    let outside = 0;
    let bound = -Infinity;
    for (let id = 0; id < scores.length; id++) {
      const score = scores[id]!;
      if (score === -Infinity) continue;
      if (score >= floor) list.ids[list.length++] = id;
      else {
        outside += weightOf(score, this.best);
        if (score > bound) bound = score;
      }
    }
    if (bound > -Infinity) list.leaveOut(bound, outside, SUM_ERROR * (1 + outside));
    this.#sort(list);
  }

  /** Radix sort by descending score; stable, so equal scores stay in ascending order of id. Linear whatever the scores are. */
  #sort(list: Shortlist): void {
    const n = list.length;
    let [keys, keysTo, ids, idsTo] = [this.#keys, this.#keysTo, list.ids, this.#idsTo];
    for (let i = 0; i < n; i++) keys[i] = orderKey(this.#bits[ids[i]!]!);
    // Three passes of 11, 11 and 10 bits.
    for (let shift = 0; shift < 32; shift += 11) {
      const counts = this.#counts.fill(0);
      for (let i = 0; i < n; i++) counts[(keys[i]! >>> shift) & (BINS - 1)]!++;
      for (let bin = 0, start = 0; bin < BINS; bin++) {
        const count = counts[bin]!;
        counts[bin] = start;
        start += count;
      }
      for (let i = 0; i < n; i++) {
        const to = counts[(keys[i]! >>> shift) & (BINS - 1)]!++;
        keysTo[to] = keys[i]!;
        idsTo[to] = ids[i]!;
      }
      [keys, keysTo, ids, idsTo] = [keysTo, keys, idsTo, ids];
    }
    // After an odd number of passes the result lies in the other array.
    if (ids !== list.ids) list.ids.set(ids.subarray(0, n));
    for (let i = 0; i < n; i++) list.scores[i] = this.#scores[list.ids[i]!]!;
  }
}

/** Unsigned 32-bit key of an fp32's bits that ascends as the number descends. */
function orderKey(bits: number): number {
  return (bits & 0x80000000 ? bits : ~bits & 0x7fffffff) >>> 0;
}
