/** Reads the model's generation_config.json as defaults of requests, as transformers' `generate()` does. */
import type { TSchema } from "typebox";
import { Compile } from "typebox/compile";
import { ModelLoadError, PrefixdError } from "../../errors.ts";
import { checkCombinations } from "./combinations.ts";
import { GenerationConfigFields, REQUEST_NAMES, type GenerationDefaults } from "./defaults-schema.ts";
import { NOT_OFFERED } from "./foreign-fields.ts";
import { explain } from "../validation.ts";

const FILE = "generation_config.json";

/**
 * Fields that cannot change a GPT-2's tokens: how transformers computes, what it returns, what only encoders or
 * assistants use. EOS ids are read with the model.
 */
const WITHOUT_EFFECT: ReadonlySet<string> = new Set([
  "eos_token_id",
  "bos_token_id",
  "pad_token_id",
  "decoder_start_token_id",
  "transformers_version",
  "use_cache",
  "cache_implementation",
  "cache_config",
  "max_cache_len",
  "low_memory",
  "prefill_chunk_size",
  "compile_config",
  "disable_compile",
  "continuous_batching_config",
  "output_attentions",
  "output_hidden_states",
  "output_scores",
  "output_logits",
  "return_dict_in_generate",
  "is_assistant",
  "num_assistant_tokens",
  "num_assistant_tokens_schedule",
  "assistant_confidence_threshold",
  "prompt_lookup_num_tokens",
  "max_matching_ngram_size",
  "assistant_early_exit",
  "assistant_lookbehind",
  "target_lookbehind",
  "assistant_ensemble_weight",
  "speculation_type",
]);

/** Unsupported fields that change answers, each with its neutral value. null is always neutral. */
const NOT_APPLIED: ReadonlyMap<string, unknown> = new Map<string, unknown>([
  ["guidance_scale", 1],
  ["penalty_alpha", 0],
  ["dola_layers", null],
  ["watermarking_config", null],
  ["num_beam_groups", 1],
  ["diversity_penalty", 0],
  ["constraints", null],
  ["force_words_ids", null],
  ["encoder_repetition_penalty", 1],
  ["encoder_no_repeat_ngram_size", 0],
  ["remove_invalid_values", false],
  ["max_time", null],
  ["token_healing", false],
  ["use_mtp", false],
]);

const schema: TSchema = GenerationConfigFields;
const validator = Compile(GenerationConfigFields);

export interface DefaultsFor {
  readonly vocabSize: number;
  /** Maximum rows per prompt. */
  readonly maxN: number;
}

/**
 * The defaults in `file`, the parsed generation_config.json. A null field stands for transformers' default.
 * @throws ModelLoadError that names the field: a value of the wrong type or out of a request's limits, one that would
 *   change answers in an unsupported way, an unknown field, or fields that together refuse a request without any of
 * them
 */
export function generationDefaults(
  file: Readonly<Record<string, unknown>>,
  { vocabSize, maxN }: DefaultsFor,
): GenerationDefaults {
  const known: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(file)) {
    if (value === null || WITHOUT_EFFECT.has(name) || name.startsWith("_")) continue;
    if (Object.hasOwn(GenerationConfigFields.properties, name)) known[name] = value;
    else refuseUnlessNeutral(name, value);
  }
  if (!validator.Check(known))
    throw new ModelLoadError("model_invalid", `${FILE}: ${explain(schema, validator.Errors(known), FILE).message}`);
  checkIds(known, vocabSize);
  const { max_length, min_length, ...rest } = known;
  const defaults: GenerationDefaults = {
    ...Object.fromEntries(
      Object.entries(rest).map(([name, value]) => [
        Object.hasOwn(REQUEST_NAMES, name) ? REQUEST_NAMES[name as keyof typeof REQUEST_NAMES] : name,
        value,
      ]),
    ),
    // Given both, transformers uses the one that does not count the prompt.
    ...(max_length !== undefined && known.max_new_tokens === undefined ? { max_length } : {}),
    ...(min_length !== undefined && known.min_new_tokens === undefined ? { min_length } : {}),
  };
  try {
    checkCombinations({}, defaults, maxN);
  } catch (error) {
    if (!(error instanceof PrefixdError)) throw error;
    throw new ModelLoadError(
      "model_unsupported",
      `${FILE}: a request that sets nothing would be refused: ${error.message}`,
      { cause: error },
    );
  }
  return defaults;
}

function refuseUnlessNeutral(name: string, value: unknown): void {
  const way = "--generation-config none starts without the file's defaults";
  const shown = JSON.stringify(value).slice(0, 100);
  if (NOT_APPLIED.has(name)) {
    if (value === NOT_APPLIED.get(name)) return;
    const why = Object.hasOwn(NOT_OFFERED, name) ? ` (${NOT_OFFERED[name]})` : "";
    throw new ModelLoadError("model_unsupported", `${FILE}: ${name} ${shown} is not supported${why}; ${way}.`);
  }
  const says = value !== false && !(typeof value === "object" && value !== null && Object.keys(value).length === 0);
  if (says)
    throw new ModelLoadError(
      "model_unsupported",
      `${FILE}: ${name} ${shown} is not known, and it may change the answers; ${way}.`,
    );
}

function checkIds(config: GenerationConfigFields, vocabSize: number): void {
  const ids = {
    bad_words_ids: config.bad_words_ids?.flat(),
    sequence_bias: config.sequence_bias?.flatMap(([sequence]) => sequence),
    suppress_tokens: config.suppress_tokens,
    begin_suppress_tokens: config.begin_suppress_tokens,
    forced_bos_token_id: config.forced_bos_token_id === undefined ? [] : [config.forced_bos_token_id],
    forced_eos_token_id: config.forced_eos_token_id === undefined ? [] : [config.forced_eos_token_id].flat(),
  };
  for (const [name, given] of Object.entries(ids)) {
    const bad = given?.find((id) => id >= vocabSize);
    if (bad !== undefined)
      throw new ModelLoadError(
        "model_invalid",
        `${FILE}: ${name} has the id ${bad}; token ids are 0 to ${vocabSize - 1}.`,
      );
  }
}
