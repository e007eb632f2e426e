/**
 * transformers' logits processors (generation/logits_process.py), which change a token's score by the ids before it, in
 * fp32: every step that torch rounds is rounded here.
 *
 * Order: logit_bias and sequence_bias, repetition_penalty, no_repeat_ngram_size, bad_words, min_new_tokens,
 * forced_bos_token_id, forced_eos_token_id, exponential_decay_length_penalty, suppress_tokens, begin_suppress_tokens,
 * and where transformers puts processors of one's own frequency_penalty and presence_penalty (vLLM's). Processors that
 * only forbid tokens may run in any place, except that forced ids override what was forbidden before them, and not what
 * is forbidden after.
 *
 * A constraint forbids tokens before all else, as transformers' `prefix_allowed_tokens_fn`.
 */
import { MaskPending, type TokenConstraint } from "../constraint.ts";
import { rulesOf, type ProcessorRules } from "./processor-rules.ts";
import type { SamplingParams } from "../request.ts";

/** exponential_decay_length_penalty raises scores no higher, so that sums of scores stay finite. */
const HIGHEST = 1e30;
const { fround } = Math;
/** One for all: it may be thrown at every step of many rows, and nobody reads where. */
const PENDING = new MaskPending();

/**
 * The processors of one sequence with its history: what they do to the scores of its next token. Scores are raw logits,
 * or, in beam search, their log-softmax: transformers hands either to the same processors.
 */
export class LogitsProcessors {
  readonly #rules: ProcessorRules;
  /** Prompt and generated ids; only with repetition_penalty, else empty. */
  readonly #seen = new Set<number>();
  /** Count of each generated id; only with frequency_penalty or presence_penalty, else empty. */
  readonly #counts = new Map<number, number>();
  /** Prompt and generated ids in order; only with rules on sequences of several ids, else empty. */
  readonly #history: number[] = [];
  /** Biases of the next scores, where they depend on the history; else the rules' own. */
  readonly #biases: Map<number, number>;
  /** Ids forbidden as the next token, besides those of the rules. */
  readonly #banned = new Set<number>();
  /**
   * EOS ids while exponential_decay_length_penalty acts, else empty; and the factor on the magnitude of their scores.
   */
  readonly #decayed = new Set<number>();
  #decay = 0;
  #forced: readonly number[] | null = null;
  #generated = 0;
  /** The only ids whose scores may change. */
  readonly #changed: readonly (ReadonlySet<number> | ReadonlyMap<number, unknown>)[];
  /** null: any token may come. */
  #constraint: TokenConstraint | null;

  constructor(
    params: SamplingParams,
    promptIds: Int32Array,
    eosIds: readonly number[],
    constraint: TokenConstraint | null = null,
    rules = rulesOf(params, promptIds.length, eosIds),
  ) {
    this.#rules = rules;
    this.#constraint = constraint;
    if (rules.repetitionPenalty !== 1) for (const id of promptIds) this.#seen.add(id);
    if (rules.keepsHistory) this.#history.push(...promptIds);
    this.#biases = rules.biasedPhrases.length > 0 ? new Map(rules.biases) : rules.biases;
    this.#changed = [this.#biases, this.#seen, this.#counts, rules.forbidden, this.#banned, this.#decayed];
    this.#lookAhead();
  }

  /** An independent copy, for a beam that forks. */
  fork(): LogitsProcessors {
    const copy = new LogitsProcessors(
      this.#rules,
      new Int32Array(0),
      this.#rules.eosIds,
      this.#constraint,
      this.#rules,
    );
    for (const id of this.#seen) copy.#seen.add(id);
    for (const [id, count] of this.#counts) copy.#counts.set(id, count);
    for (const id of this.#history) copy.#history.push(id);
    copy.#generated = this.#generated;
    copy.#lookAhead();
    return copy;
  }

  /** Appends an id to the history. */
  push(id: number): void {
    const { none, repetitionPenalty, frequencyPenalty, presencePenalty, keepsHistory } = this.#rules;
    this.#generated++;
    if (this.#constraint !== null && !this.#rules.eosIds.includes(id)) this.#constraint = this.#constraint.after(id);
    if (none) return;
    if (repetitionPenalty !== 1) this.#seen.add(id);
    if (frequencyPenalty !== 0 || presencePenalty !== 0) this.#counts.set(id, (this.#counts.get(id) ?? 0) + 1);
    if (keepsHistory) this.#history.push(id);
    this.#lookAhead();
  }

  get generated(): number {
    return this.#generated;
  }

  /** Whether the constraint ends the sequence here. */
  get final(): boolean {
    return this.#constraint?.final ?? false;
  }

  /** Whether the constraint would end the sequence after this id. */
  finalAfter(id: number): boolean {
    return this.#constraint !== null && !this.#rules.eosIds.includes(id) && this.#constraint.after(id).final;
  }

  get constrained(): boolean {
    return this.#constraint !== null;
  }

  /** Goes on with what `allowed` and `apply` need, for about `units` of work; returns the work done. */
  work(units: number): number {
    return this.#constraint === null || this.#constraint.ready ? 0 : this.#constraint.work(units);
  }

  /**
   * The ids that the constraint allows, ascending, if they are few; null: too many, or there is no constraint. To be
   * asked before `apply`.
   * @throws MaskPending
   */
  get allowed(): Int32Array | null {
    if (this.#constraint === null) return null;
    if (!this.#constraint.ready) throw PENDING;
    const { ids } = this.#constraint.mask;
    return ids !== null && this.#constraint.complete ? Int32Array.of(...ids, ...this.#rules.eosIds).sort() : ids;
  }

  /** Whether any score may rise. Does not cover `forced` ids. */
  get mayRaise(): boolean {
    return this.#rules.mayRaise;
  }

  /** Only these ids may come next, whatever the model's scores; null: any. */
  get forced(): readonly number[] | null {
    return this.#forced;
  }

  /** No score changes. */
  get idle(): boolean {
    if (this.#constraint !== null) return false;
    return this.#rules.none || (this.#forced === null && this.#changed.every(({ size }) => size === 0));
  }

  /** One token's score after all processors; `raw` is its logit or log-probability, an fp32 number. @throws MaskPending */
  score(id: number, raw: number): number {
    return this.#mayCome(id) ? this.scoreAllowed(id, raw) : -Infinity;
  }

  /** The same for a token that the constraint allows. */
  scoreAllowed(id: number, raw: number): number {
    const { forbidden, suppressed, repetitionPenalty, frequencyPenalty, presencePenalty } = this.#rules;
    if (this.#banned.has(id)) return -Infinity;
    let score = raw;
    if (this.#forced !== null) {
      if (!this.#forced.includes(id) || suppressed.has(id)) return -Infinity;
      score = 0;
    } else {
      if (forbidden.has(id)) return -Infinity;
      const bias = this.#biases.get(id);
      if (bias !== undefined) score = fround(score + bias);
      // torch multiplies by the fp32 values of penalties.
      if (this.#seen.has(id)) {
        const penalty = fround(repetitionPenalty);
        score = fround(score < 0 ? score * penalty : score / penalty);
      }
    }
    if (this.#decayed.has(id) && score !== 0 && Number.isFinite(score))
      score = Math.min(HIGHEST, fround(score + fround(Math.abs(score) * this.#decay)));
    const count = this.#counts.get(id);
    if (count !== undefined) {
      score = fround(score - fround(fround(frequencyPenalty) * count));
      score = fround(score - fround(presencePenalty));
    }
    return score;
  }

  /** All scores of a row at once, in place; `[vocabSize]`. */
  apply(scores: Float32Array): void {
    if (this.#forced !== null) for (const id of scores.keys()) scores[id] = this.score(id, 0);
    else this.forEachChanged((id) => void (scores[id] = this.score(id, scores[id]!)));
    if (this.#constraint === null) return;
    const { mask, complete } = this.#constraint;
    // EOS is never in a mask.
    const ends = complete ? this.#rules.eosIds.map((id): [number, number] => [id, scores[id]!]) : [];
    for (let id = 0; id < scores.length; id++) if (!mask.has(id)) scores[id] = -Infinity;
    for (const [id, score] of ends) scores[id] = score;
  }

  #mayCome(id: number): boolean {
    if (this.#constraint === null) return true;
    if (this.#rules.eosIds.includes(id)) return this.#constraint.complete;
    const may = this.#constraint.allows(id);
    if (may === null) throw PENDING;
    return may;
  }

  /** Visits once each id whose score `score` may change, which are few. Not for `forced` ids. */
  forEachChanged(visit: (id: number) => void): void {
    const changed = this.#changed;
    for (let i = 0; i < changed.length; i++) {
      if (changed[i]!.size === 0) continue;
      for (const id of changed[i]!.keys()) {
        let before = 0;
        while (before < i && !changed[before]!.has(id)) before++;
        if (before === i) visit(id);
      }
    }
  }

  /** Derives what the history and its length mean for the next id. */
  #lookAhead(): void {
    const {
      none,
      noRepeatNgramSize,
      phrases,
      minNewTokens,
      eosIds,
      forcedFirst,
      forcedLast,
      beginSuppressed,
      beginAt,
      decay,
      biasedPhrases,
    } = this.#rules;
    if (none) return;
    const banned = this.#banned;
    const generated = this.#generated;
    banned.clear();
    this.#forced = forcedFirst !== null && generated === 0 ? forcedFirst : null;
    if (forcedLast !== null && generated === forcedLast.index) this.#forced = forcedLast.ids;
    if (this.#forced === null) {
      if (noRepeatNgramSize > 0) this.#banRepeats(noRepeatNgramSize);
      for (const phrase of phrases) if (endsWith(this.#history, phrase)) banned.add(phrase[phrase.length - 1]!);
      if (generated < minNewTokens) for (const id of eosIds) banned.add(id);
    }
    if (generated === beginAt) for (const id of beginSuppressed) banned.add(id);
    if (biasedPhrases.length > 0) this.#bias();
    if (decay !== null && generated > decay.start) {
      this.#decay = fround(decay.factor ** (generated - decay.start) - 1);
      for (const id of eosIds) this.#decayed.add(id);
    }
  }

  /** Sums of the biases of phrases that lack only their last id. */
  #bias(): void {
    const { biases, biasedPhrases } = this.#rules;
    this.#biases.clear();
    for (const [id, bias] of biases) this.#biases.set(id, bias);
    for (const { ids, bias } of biasedPhrases) {
      const last = ids[ids.length - 1]!;
      if (endsWith(this.#history, ids)) this.#biases.set(last, fround((this.#biases.get(last) ?? 0) + bias));
    }
  }

  /** Ids that followed the history's last `size - 1` ids before; with size 1, every id in it. Linear in the history. */
  #banRepeats(size: number): void {
    const history = this.#history;
    for (let end = size - 1; end < history.length; end++) {
      let back = size - 1;
      while (back > 0 && history[end - back] === history[history.length - back]) back--;
      if (back === 0) this.#banned.add(history[end]!);
    }
  }
}

/** Whether all ids of `phrase` but its last are the last ones of `history`. */
function endsWith(history: readonly number[], phrase: readonly number[]): boolean {
  const length = phrase.length - 1;
  if (length > history.length) return false;
  for (let back = 1; back <= length; back++) if (history[history.length - back] !== phrase[length - back]) return false;
  return true;
}
