import { PrefixdError } from "../errors.ts";
import type { ErrorCode } from "../errors.ts";
import type { ModelShape } from "../kv.ts";
import { decodeUtf8, isJsonObject, JsonDefect, parseStrictJson, quote } from "../formats/strict-json.ts";
import type { JsonObject, JsonValue } from "../formats/strict-json.ts";

/** PEFT types that are already keys and values, and types that must be run through the model once. */
const KV_TYPES = ["PREFIX_TUNING", "CARTRIDGE"];
const EMBEDDING_TYPES = ["PROMPT_TUNING", "P_TUNING", "CPT"];

export interface PeftConfig {
  readonly peftType: string;
  readonly layout: "kv" | "embeddings";
  /** num_virtual_tokens, if given. */
  readonly virtualTokens: number | null;
  /** prefixd_base_fingerprint, if given. */
  readonly base: string | null;
  /** base_model_name_or_path: what the base model was loaded from for training, a hub id or a local path. */
  readonly baseName: string | null;
  /** revision: the branch, tag or commit of that hub id. */
  readonly baseRevision: string | null;
}

const MAX_CONFIG_BYTES = 1 << 20;
/** Linux's longest path (PATH_MAX). */
const MAX_NAME_LENGTH = 4096;

function fail(code: ErrorCode, sentence: string): PrefixdError {
  return new PrefixdError(code, sentence);
}

/**
 * Checks adapter_config.json against the base model. Ignores unknown keys, as PEFT does. Throws
 * `adapter_config_invalid`, `adapter_type_unsupported`, `adapter_shape_mismatch`, each naming the field.
 */
export function parsePeftConfig(bytes: Uint8Array, shape: ModelShape): PeftConfig {
  const config = parseObject(bytes);
  const peftType = checkType(config);
  checkTask(config);
  checkSize(config, "num_layers", shape.layers, "layers");
  checkSize(config, "num_attention_heads", shape.heads, "attention heads");
  checkSize(config, "token_dim", shape.width, "values per token");
  const virtualTokens = optional(config, "num_virtual_tokens", isWhole, "a whole number");
  if (virtualTokens !== null && virtualTokens < 1)
    throw fail("adapter_shape_mismatch", `num_virtual_tokens is ${virtualTokens}; it must be at least 1.`);
  return {
    peftType,
    layout: KV_TYPES.includes(peftType) ? "kv" : "embeddings",
    virtualTokens,
    base: optional(config, "prefixd_base_fingerprint", isString, "a string"),
    baseName: name(config, "base_model_name_or_path"),
    baseRevision: name(config, "revision"),
  };
}

function parseObject(bytes: Uint8Array): JsonObject {
  if (bytes.length === 0) throw fail("adapter_config_invalid", "adapter_config.json is empty.");
  if (bytes.length > MAX_CONFIG_BYTES)
    throw fail("adapter_config_invalid", `adapter_config.json is larger than ${MAX_CONFIG_BYTES} bytes.`);
  try {
    // PEFT reads it with Python's json module; Windows editors write a byte order mark.
    const text = decodeUtf8(bytes).replace(/^\uFEFF/, "");
    const json = parseStrictJson(text, { maxDepth: 16, maxValues: 100_000, pythonNumbers: true });
    if (!isJsonObject(json)) throw new JsonDefect("it is not a JSON object");
    return json;
  } catch (error) {
    if (error instanceof JsonDefect)
      throw fail("adapter_config_invalid", `adapter_config.json is not valid: ${error.message}.`);
    throw error;
  }
}

function checkType(config: JsonObject): string {
  const type = config.get("peft_type");
  if (type === undefined && config.has("preseqlen")) {
    throw fail(
      "adapter_type_unsupported",
      "This config.json is one of the original PrefixTuning repository; convert the checkpoint to PEFT's PREFIX_TUNING format first.",
    );
  }
  if (type === undefined && config.has("model_type")) {
    throw fail(
      "adapter_config_invalid",
      "This is the config.json of a model; the adapter_config.json of a PEFT adapter is needed.",
    );
  }
  if (type === undefined || type === null)
    throw fail("adapter_config_invalid", "adapter_config.json has no peft_type.");
  if (!isString(type)) throw wrongType("peft_type", type, "a string");
  if (type === "MULTITASK_PROMPT_TUNING") {
    throw fail(
      "adapter_type_unsupported",
      "peft_type MULTITASK_PROMPT_TUNING needs a task id with every request, which this server does not take; save one task's prompt as PROMPT_TUNING.",
    );
  }
  const served = [...KV_TYPES, ...EMBEDDING_TYPES];
  if (!served.includes(type)) {
    const meant = didYouMean(type, served);
    const why = meant === "" ? ` Adapters that change the model itself, such as LORA, are not.` : meant;
    throw fail("adapter_type_unsupported", `peft_type ${quote(type)} is not served; ${served.join(", ")} are.${why}`);
  }
  return type;
}

/** PEFT's enumerations are upper case, and it accepts nothing else. */
function didYouMean(given: string, values: readonly string[]): string {
  const meant = values.find((value) => value === given.trim().toUpperCase());
  return meant === undefined ? "" : ` Did you mean ${quote(meant)}?`;
}

function checkTask(config: JsonObject): void {
  const task = optional(config, "task_type", isString, "a string");
  if (task !== null && task !== "CAUSAL_LM") {
    throw fail(
      "adapter_type_unsupported",
      `task_type ${quote(task)} is not served; CAUSAL_LM is.${didYouMean(task, ["CAUSAL_LM"])}`,
    );
  }
  const submodules = optional(config, "num_transformer_submodules", isWhole, "a whole number");
  if (submodules !== null && submodules !== 1) {
    throw fail("adapter_type_unsupported", `num_transformer_submodules is ${submodules}; a decoder-only model has 1.`);
  }
  const extra = optional(config, "modules_to_save", isStrings, "a list of strings");
  if (extra === null || extra.length === 0) return;
  const modules = extra.slice(0, 3).map(quote).join(", ");
  throw fail(
    "adapter_type_unsupported",
    `modules_to_save names trained modules of the model itself (${modules}); only the prefix can be served.`,
  );
}

function checkSize(config: JsonObject, key: string, base: number, what: string): void {
  const value = optional(config, key, isWhole, "a whole number");
  if (value !== null && value !== base)
    throw fail("adapter_shape_mismatch", `${key} is ${value}, but the base model has ${base} ${what}.`);
}

/** A name for display, not for look-up. */
function name(config: JsonObject, key: string): string | null {
  const value = optional(config, key, isString, "a string");
  if (value !== null && value.length > MAX_NAME_LENGTH)
    throw fail("adapter_config_invalid", `${key} in adapter_config.json is longer than ${MAX_NAME_LENGTH} characters.`);
  // A lone surrogate has no UTF-8 form, and Redis' scripts cannot read it.
  return value === null || value === "" ? null : value.replace(/\p{Surrogate}/gu, "\ufffd");
}

function optional<T extends JsonValue>(
  config: JsonObject,
  key: string,
  is: (value: JsonValue) => value is T,
  what: string,
): T | null {
  const value = config.get(key) ?? null;
  if (value === null || is(value)) return value;
  throw wrongType(key, value, what);
}

function wrongType(key: string, value: JsonValue, what: string): PrefixdError {
  const shown = isString(value)
    ? quote(value)
    : isJsonObject(value)
      ? "an object"
      : typeof value === "object"
        ? "a list"
        : String(value);
  return fail("adapter_config_invalid", `${key} in adapter_config.json is ${shown}, not ${what}.`);
}

function isString(value: JsonValue): value is string {
  return typeof value === "string";
}

function isWhole(value: JsonValue): value is number {
  return typeof value === "number" && Number.isSafeInteger(value);
}

function isStrings(value: JsonValue): value is readonly string[] {
  return Array.isArray(value) && value.every(isString);
}
