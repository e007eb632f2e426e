/**
 * transformers' logits processors (generation/logits_process.py), which change a token's score by the ids before it, in fp32: every
 * step that torch rounds is rounded here.
 *
 * Order: logit_bias (transformers' sequence_bias), repetition_penalty, frequency_penalty, presence_penalty (vLLM's order),
 * no_repeat_ngram_size, bad_words, min_new_tokens. The last three forbid tokens, so what is added before or after them is the same.
 */
import type { SamplingParams } from "./request.ts";

/** What is the same at every step of every sequence of a request. */
interface Rules extends SamplingParams {
  readonly eosIds: readonly number[];
  /** Never to be generated: the bad words of one token. */
  readonly forbidden: ReadonlySet<number>;
  /** The other bad words. */
  readonly phrases: readonly (readonly number[])[];
  readonly mayRaise: boolean;
  readonly keepsHistory: boolean;
  /** Nothing of the history matters, and no score ever changes. */
  readonly none: boolean;
}

function rulesOf(params: SamplingParams, eosIds: readonly number[]): Rules {
  const { badWords, logitBias, repetitionPenalty, frequencyPenalty, presencePenalty, noRepeatNgramSize, minNewTokens } = params;
  // As in transformers: what ends a sequence is no bad word.
  const words = badWords.filter((word) => word.length === 1 && !eosIds.includes(word[0]!));
  const phrases = badWords.filter((word) => word.length > 1);
  const plain = repetitionPenalty === 1 && frequencyPenalty === 0 && presencePenalty === 0 && noRepeatNgramSize === 0;
  return {
    ...params,
    eosIds,
    forbidden: new Set(words.map((word) => word[0]!)),
    phrases,
    mayRaise: repetitionPenalty < 1 || frequencyPenalty < 0 || presencePenalty < 0 || [...logitBias.values()].some((bias) => bias > 0),
    keepsHistory: noRepeatNgramSize > 0 || phrases.length > 0,
    none: plain && badWords.length === 0 && logitBias.size === 0 && (minNewTokens === 0 || eosIds.length === 0),
  };
}

/**
 * The processors of one sequence with its history: what they do to the scores of its next token. Scores are raw logits, or, in beam
 * search, their log-softmax: transformers hands either to the same processors.
 */
export class LogitsProcessors {
  readonly #rules: Rules;
  /** Prompt and generated ids; with repetition_penalty only, else empty. */
  readonly #seen: Set<number>;
  /** How often each generated id came; with frequency_penalty or presence_penalty only, else empty. */
  readonly #counts: Map<number, number>;
  /** Prompt and generated ids in order; with no_repeat_ngram_size or bad words of several tokens only, else empty. */
  readonly #history: number[];
  /** Forbidden as the next token, beside the rules' ones. */
  readonly #banned = new Set<number>();
  #generated = 0;

  constructor(params: SamplingParams, promptIds: Int32Array, eosIds: readonly number[], rules = rulesOf(params, eosIds)) {
    this.#rules = rules;
    this.#seen = new Set(rules.repetitionPenalty === 1 ? [] : promptIds);
    this.#counts = new Map();
    this.#history = rules.keepsHistory ? [...promptIds] : [];
    this.#ban();
  }

  /** A copy that goes its own way, for a beam that splits. */
  fork(): LogitsProcessors {
    const copy = new LogitsProcessors(this.#rules, new Int32Array(0), this.#rules.eosIds, this.#rules);
    for (const id of this.#seen) copy.#seen.add(id);
    for (const [id, count] of this.#counts) copy.#counts.set(id, count);
    for (const id of this.#history) copy.#history.push(id);
    copy.#generated = this.#generated;
    copy.#ban();
    return copy;
  }

  /** The sequence goes on with this id. */
  push(id: number): void {
    const { none, repetitionPenalty, frequencyPenalty, presencePenalty, keepsHistory } = this.#rules;
    this.#generated++;
    if (none) return;
    if (repetitionPenalty !== 1) this.#seen.add(id);
    if (frequencyPenalty !== 0 || presencePenalty !== 0) this.#counts.set(id, (this.#counts.get(id) ?? 0) + 1);
    if (keepsHistory) this.#history.push(id);
    this.#ban();
  }

  get generated(): number {
    return this.#generated;
  }

  /** A score may become higher than it was. Otherwise none does. */
  get mayRaise(): boolean {
    return this.#rules.mayRaise;
  }

  /** Nothing is changed: every score stays what it is. */
  get idle(): boolean {
    return this.#rules.none || this.#rules.logitBias.size + this.#rules.forbidden.size + this.#seen.size + this.#counts.size + this.#banned.size === 0;
  }

  /** One token's score after all processors; `raw` is its logit or log-probability, an fp32 number. */
  score(id: number, raw: number): number {
    const { forbidden, logitBias, repetitionPenalty, frequencyPenalty, presencePenalty } = this.#rules;
    if (this.#banned.has(id) || forbidden.has(id)) return -Infinity;
    let score = raw;
    const bias = logitBias.get(id);
    if (bias !== undefined) score = Math.fround(score + Math.fround(bias));
    // torch multiplies by the fp32 values of penalties.
    if (this.#seen.has(id)) {
      const penalty = Math.fround(repetitionPenalty);
      score = Math.fround(score < 0 ? score * penalty : score / penalty);
    }
    const count = this.#counts.get(id);
    if (count !== undefined) {
      score = Math.fround(score - Math.fround(Math.fround(frequencyPenalty) * count));
      score = Math.fround(score - Math.fround(presencePenalty));
    }
    return score;
  }

  /** All scores of a row at once, in place; `[vocabSize]`. */
  apply(scores: Float32Array): void {
    this.forEachChanged((id) => {
      scores[id] = this.score(id, scores[id]!);
    });
  }

  /** Visits, once each, all ids that `score` may not leave as they are: those seen, biased or forbidden, not the vocabulary. */
  forEachChanged(visit: (id: number) => void): void {
    const { forbidden, logitBias } = this.#rules;
    for (const id of logitBias.keys()) visit(id);
    for (const id of this.#seen) if (!logitBias.has(id)) visit(id);
    for (const id of this.#counts.keys()) if (!logitBias.has(id) && !this.#seen.has(id)) visit(id);
    const isNew = (id: number): boolean => !logitBias.has(id) && !this.#seen.has(id) && !this.#counts.has(id);
    for (const id of forbidden) if (isNew(id)) visit(id);
    for (const id of this.#banned) if (isNew(id) && !forbidden.has(id)) visit(id);
  }

  /** Finds what the history forbids as its next id. */
  #ban(): void {
    const { noRepeatNgramSize, phrases, minNewTokens, eosIds } = this.#rules;
    const banned = this.#banned;
    banned.clear();
    if (noRepeatNgramSize > 0) this.#banRepeats(noRepeatNgramSize);
    for (const phrase of phrases) if (endsWith(this.#history, phrase)) banned.add(phrase[phrase.length - 1]!);
    if (this.#generated < minNewTokens) for (const id of eosIds) banned.add(id);
  }

  /** Ids that have followed the history's last `size - 1` ids before; with size 1 every id that has been. Linear in the history. */
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
