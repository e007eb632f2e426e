import type { SamplingParams } from "../request.ts";

/** Per-request constants, precomputed for `LogitsProcessors`. */
export interface ProcessorRules extends SamplingParams {
  readonly eosIds: readonly number[];
  /** Never to be generated: the bad words of one token, and what is suppressed. */
  readonly forbidden: ReadonlySet<number>;
  /** Those of them that must not come even if forced. */
  readonly suppressed: ReadonlySet<number>;
  /** The other bad words. */
  readonly phrases: readonly (readonly number[])[];
  /** Added to the scores of single ids, in fp32. */
  readonly biases: Map<number, number>;
  /** Added to the score of a phrase's last id where the ids before it have come, in fp32. */
  readonly biasedPhrases: readonly { readonly ids: readonly number[]; readonly bias: number }[];
  readonly forcedFirst: readonly number[] | null;
  readonly beginSuppressed: readonly number[];
  /** Number of tokens generated when `beginSuppressed` are forbidden. */
  readonly beginAt: number;
  /** EOS scores change after more than `start` tokens, by `factor` to the power of how many more. */
  readonly decay: { readonly start: number; readonly factor: number } | null;
  readonly mayRaise: boolean;
  readonly keepsHistory: boolean;
  /** The history does not matter, and no score ever changes. */
  readonly none: boolean;
}

export function rulesOf(params: SamplingParams, promptLength: number, eosIds: readonly number[]): ProcessorRules {
  const {
    badWords,
    logitBias,
    sequenceBias,
    repetitionPenalty,
    frequencyPenalty,
    presencePenalty,
    noRepeatNgramSize,
    minNewTokens,
  } = params;
  // As in transformers: an EOS id is not a bad word.
  const words = badWords.filter((word) => word.length === 1 && !eosIds.includes(word[0]!));
  const phrases = badWords.filter((word) => word.length > 1);
  const biases = new Map([...logitBias].map(([id, bias]) => [id, Math.fround(bias)]));
  for (const { ids, bias } of sequenceBias) if (ids.length === 1) biases.set(ids[0]!, Math.fround(bias));
  const biasedPhrases = sequenceBias
    .filter(({ ids }) => ids.length > 1)
    .map(({ ids, bias }) => ({ ids, bias: Math.fround(bias) }));
  const decay =
    params.exponentialDecay !== null && params.exponentialDecay.factor !== 1 && eosIds.length > 0
      ? params.exponentialDecay
      : null;
  // For decoder-only models, transformers forces the first token only if the input is one token long, and generation
  // then begins after it.
  const { forcedBosId } = params;
  const forcedFirst = forcedBosId !== null && promptLength === 1 ? [forcedBosId] : null;
  const penalised = repetitionPenalty !== 1 || frequencyPenalty !== 0 || presencePenalty !== 0 || decay !== null;
  const biased = biases.size > 0 || biasedPhrases.length > 0;
  const forbids =
    noRepeatNgramSize > 0 ||
    badWords.length + params.suppressIds.length + params.beginSuppressIds.length > 0 ||
    (minNewTokens > 0 && eosIds.length > 0);
  return {
    ...params,
    eosIds,
    forbidden: new Set([...words.map((word) => word[0]!), ...params.suppressIds]),
    suppressed: new Set(params.suppressIds),
    phrases,
    biases,
    biasedPhrases,
    forcedFirst,
    beginSuppressed: params.beginSuppressIds,
    beginAt: forcedFirst === null ? 0 : 1,
    decay,
    mayRaise:
      repetitionPenalty < 1 ||
      frequencyPenalty < 0 ||
      presencePenalty < 0 ||
      (decay?.factor ?? 1) > 1 ||
      [...biases.values(), ...biasedPhrases.map(({ bias }) => bias)].some((bias) => bias > 0),
    keepsHistory: noRepeatNgramSize > 0 || phrases.length > 0 || biasedPhrases.length > 0,
    none: !penalised && !biased && !forbids && forcedFirst === null && params.forcedLast === null,
  };
}
