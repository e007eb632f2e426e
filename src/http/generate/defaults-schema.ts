import Type, { type Static, type TSchema } from "typebox";
import { named, strict } from "../common-schema.ts";
import { BadIds, GenerateBody, MAX_BAD_WORDS } from "./schema.ts";

const { Optional } = Type;
const { properties: field } = GenerateBody;
const count = (description: string, minimum = 0): Type.TOptional<Type.TInteger> =>
  Optional(Type.Integer({ minimum, description }));

/** Request fields that generation_config.json may set, by transformers' names, with the same limits as in requests. */
export const GenerationConfigFields = strict({
  max_new_tokens: count("", 1),
  max_length: count(
    "Upper limit of prompt and answer together, where neither the request nor the model sets max_new_tokens",
    1,
  ),
  min_new_tokens: field.min_new_tokens,
  min_length: count("Lower limit of the same, where neither sets min_new_tokens"),
  do_sample: field.do_sample,
  temperature: field.temperature,
  top_h: field.top_h,
  top_k: field.top_k,
  top_p: field.top_p,
  min_p: field.min_p,
  typical_p: field.typical_p,
  epsilon_cutoff: field.epsilon_cutoff,
  eta_cutoff: field.eta_cutoff,
  repetition_penalty: field.repetition_penalty,
  no_repeat_ngram_size: field.no_repeat_ngram_size,
  bad_words_ids: Optional(Type.Array(BadIds, { maxItems: MAX_BAD_WORDS })),
  sequence_bias: field.sequence_bias,
  suppress_tokens: field.suppress_tokens,
  begin_suppress_tokens: field.begin_suppress_tokens,
  forced_bos_token_id: field.forced_bos_token_id,
  forced_eos_token_id: field.forced_eos_token_id,
  exponential_decay_length_penalty: field.exponential_decay_length_penalty,
  renormalize_logits: field.renormalize_logits,
  num_return_sequences: field.n,
  num_beams: field.num_beams,
  length_penalty: field.length_penalty,
  early_stopping: field.early_stopping,
  stop_strings: field.stop,
});
export type GenerationConfigFields = Static<typeof GenerationConfigFields>;

/** Request names of fields that transformers calls differently. */
export const REQUEST_NAMES = { bad_words_ids: "bad_words", num_return_sequences: "n", stop_strings: "stop" } as const;
type Renamed = typeof REQUEST_NAMES;

/**
 * Defaults of requests, by the requests' names, and the two lengths that include the prompt. Absent fields have
 * transformers' defaults.
 */
export type GenerationDefaults = Omit<GenerationConfigFields, keyof Renamed> & {
  [K in keyof Renamed as Renamed[K]]?: NonNullable<GenerationConfigFields[K]>;
};

/** Meaning and built-in default are documented with requests, so not repeated here. */
const TOLD_ELSEWHERE: ReadonlySet<string> = new Set(["default", "description", "hint", "examples"]);

function shown([name, schema]: [string, TSchema]): [string, TSchema] {
  const own = name === "max_length" || name === "min_length";
  const kept = Object.entries(schema).filter(([keyword]) => own || !TOLD_ELSEWHERE.has(keyword));
  return [
    Object.hasOwn(REQUEST_NAMES, name) ? REQUEST_NAMES[name as keyof Renamed] : name,
    Optional(Object.fromEntries(kept) as TSchema),
  ];
}

export const GenerationDefaultsDocument = named(
  "GenerationDefaults",
  Type.Unsafe<GenerationDefaults>(
    strict(Object.fromEntries(Object.entries(GenerationConfigFields.properties).map(shown)), {
      description:
        "Defaults of generate requests, from the model's generation_config.json; absent fields have GenerateRequest's default",
    }),
  ),
);
