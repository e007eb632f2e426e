import { DEFAULT_SAMPLING, type SamplingParams } from "../../src/engine/request.ts";

/** Parameters of a golden case, under the names of the HTTP API. */
export interface GoldenParameters {
  readonly do_sample?: boolean;
  readonly temperature?: number;
  readonly top_k?: number;
  readonly top_p?: number;
  readonly min_p?: number;
  readonly typical_p?: number;
  readonly epsilon_cutoff?: number;
  readonly eta_cutoff?: number;
  readonly repetition_penalty?: number;
  readonly presence_penalty?: number;
  readonly frequency_penalty?: number;
  readonly no_repeat_ngram_size?: number;
  readonly bad_words?: readonly (readonly number[])[];
  readonly logit_bias?: Readonly<Record<string, number>>;
  readonly min_new_tokens?: number;
  readonly sequence_bias?: readonly (readonly [readonly number[], number])[];
  readonly suppress_tokens?: readonly number[];
  readonly begin_suppress_tokens?: readonly number[];
  readonly forced_bos_token_id?: number;
  readonly forced_eos_token_id?: number | readonly number[];
  readonly exponential_decay_length_penalty?: readonly [number, number];
  readonly renormalize_logits?: boolean;
  readonly top_h?: number;
}

/** Fills in transformers' defaults. */
export function samplingOf(given: GoldenParameters, maxNewTokens: number): SamplingParams {
  const byDefault = DEFAULT_SAMPLING;
  const { forced_eos_token_id: forced, exponential_decay_length_penalty: decay } = given;
  return {
    doSample: given.do_sample ?? byDefault.doSample,
    temperature: given.temperature ?? byDefault.temperature,
    topK: given.top_k ?? byDefault.topK,
    topP: given.top_p ?? byDefault.topP,
    minP: given.min_p ?? byDefault.minP,
    typicalP: given.typical_p ?? byDefault.typicalP,
    epsilonCutoff: given.epsilon_cutoff ?? byDefault.epsilonCutoff,
    etaCutoff: given.eta_cutoff ?? byDefault.etaCutoff,
    repetitionPenalty: given.repetition_penalty ?? byDefault.repetitionPenalty,
    presencePenalty: given.presence_penalty ?? byDefault.presencePenalty,
    frequencyPenalty: given.frequency_penalty ?? byDefault.frequencyPenalty,
    noRepeatNgramSize: given.no_repeat_ngram_size ?? byDefault.noRepeatNgramSize,
    badWords: given.bad_words ?? byDefault.badWords,
    logitBias: new Map(Object.entries(given.logit_bias ?? {}).map(([id, bias]) => [Number(id), bias])),
    minNewTokens: given.min_new_tokens ?? byDefault.minNewTokens,
    sequenceBias: [...new Map((given.sequence_bias ?? []).map(([ids, bias]) => [ids.join(), { ids, bias }])).values()],
    suppressIds: given.suppress_tokens ?? byDefault.suppressIds,
    beginSuppressIds: given.begin_suppress_tokens ?? byDefault.beginSuppressIds,
    forcedBosId: given.forced_bos_token_id ?? null,
    forcedLast:
      forced === undefined
        ? null
        : { ids: typeof forced === "number" ? [forced] : [...new Set(forced)], index: maxNewTokens - 1 },
    exponentialDecay: decay === undefined ? null : { start: decay[0], factor: decay[1] },
    renormalize: given.renormalize_logits ?? byDefault.renormalize,
    topH: given.top_h ?? null,
  };
}
