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
}

/** With transformers' defaults for what is not given. */
export function samplingOf(given: GoldenParameters): SamplingParams {
  const byDefault = DEFAULT_SAMPLING;
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
  };
}
