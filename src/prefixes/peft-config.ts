import { PrefixdError } from "../errors.ts";
import type { ErrorCode } from "../errors.ts";
import type { ModelShape } from "../kv.ts";
import { decodeUtf8, isJsonObject, JsonDefect, parseStrictJson, quote } from "../model/strict-json.ts";
import type { JsonObject, JsonValue } from "../model/strict-json.ts";

/** PEFT types that are keys and values already, and those that the model must be run on once. */
const KV_TYPES = ["PREFIX_TUNING", "CARTRIDGE"];
const EMBEDDING_TYPES = ["PROMPT_TUNING", "P_TUNING", "CPT"];

export interface PeftConfig {
  readonly peftType: string;
  readonly layout: "kv" | "embeddings";
  /** num_virtual_tokens, where the file gives it. */
  readonly virtualTokens: number | null;
  /** prefixd_base_fingerprint, where the file gives it. */
  readonly base: string | null;
}

const MAX_CONFIG_BYTES = 1 << 20;

function fail(code: ErrorCode, sentence: string): PrefixdError {
  return new PrefixdError(code, sentence);
}

/** Reads adapter_config.json against the base model. Unknown keys are ignored, as PEFT itself does. */
export function parsePeftConfig(bytes: Uint8Array, shape: ModelShape): PeftConfig {
  const config = parseObject(bytes);
  const peftType = checkType(config);
  checkTask(config);
  checkSize(config, "num_layers", shape.layers, "layers");
  checkSize(config, "num_attention_heads", shape.heads, "attention heads");
  checkSize(config, "token_dim", shape.width, "values per token");
  const virtualTokens = optional(config, "num_virtual_tokens", isWhole, "a whole number");
  if (virtualTokens !== null && virtualTokens < 1) throw fail("adapter_shape_mismatch", "num_virtual_tokens must be at least 1.");
  return {
    peftType,
    layout: KV_TYPES.includes(peftType) ? "kv" : "embeddings",
    virtualTokens,
    base: optional(config, "prefixd_base_fingerprint", isString, "a string"),
  };
}

function parseObject(bytes: Uint8Array): JsonObject {
  if (bytes.length === 0) throw fail("adapter_config_invalid", "adapter_config.json is empty.");
  if (bytes.length > MAX_CONFIG_BYTES) throw fail("adapter_config_invalid", `adapter_config.json is larger than ${MAX_CONFIG_BYTES} bytes.`);
  try {
    const json = parseStrictJson(decodeUtf8(bytes), { maxDepth: 16, maxValues: 100_000 });
    if (!isJsonObject(json)) throw new JsonDefect("it is not a JSON object");
    return json;
  } catch (error) {
    if (error instanceof JsonDefect) throw fail("adapter_config_invalid", `adapter_config.json is not valid: ${error.message}.`);
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
    throw fail("adapter_config_invalid", "This is the config.json of a model; the adapter_config.json of a PEFT adapter is needed.");
  }
  if (type === undefined || type === null) throw fail("adapter_config_invalid", "adapter_config.json has no peft_type.");
  if (!isString(type)) throw fail("adapter_config_invalid", "peft_type in adapter_config.json is not a string.");
  if (type === "MULTITASK_PROMPT_TUNING") {
    throw fail(
      "adapter_type_unsupported",
      "MULTITASK_PROMPT_TUNING needs a task id with every request, which this server does not take; save one task's prompt as PROMPT_TUNING.",
    );
  }
  if (!KV_TYPES.includes(type) && !EMBEDDING_TYPES.includes(type)) {
    const served = [...KV_TYPES, ...EMBEDDING_TYPES].join(", ");
    throw fail("adapter_type_unsupported", `Adapters of peft_type ${quote(type)} change the model itself and are not served; ${served} are.`);
  }
  return type;
}

function checkTask(config: JsonObject): void {
  const task = optional(config, "task_type", isString, "a string");
  if (task !== null && task !== "CAUSAL_LM") throw fail("adapter_type_unsupported", `Adapters of task_type ${quote(task)} are not served; CAUSAL_LM ones are.`);
  const submodules = optional(config, "num_transformer_submodules", isWhole, "a whole number");
  if (submodules !== null && submodules !== 1) {
    throw fail("adapter_type_unsupported", `num_transformer_submodules is ${submodules}; a decoder-only model has 1.`);
  }
  const extra = config.get("modules_to_save") ?? null;
  if (extra === null || (Array.isArray(extra) && extra.length === 0)) return;
  throw fail("adapter_type_unsupported", "modules_to_save names trained modules of the model itself; only the prefix can be served.");
}

function checkSize(config: JsonObject, key: string, base: number, what: string): void {
  const value = optional(config, key, isWhole, "a whole number");
  if (value !== null && value !== base) throw fail("adapter_shape_mismatch", `${key} is ${value}, but the base model has ${base} ${what}.`);
}

function optional<T extends JsonValue>(config: JsonObject, key: string, is: (value: JsonValue) => value is T, what: string): T | null {
  const value = config.get(key) ?? null;
  if (value === null || is(value)) return value;
  throw fail("adapter_config_invalid", `${key} in adapter_config.json is not ${what}.`);
}

function isString(value: JsonValue): value is string {
  return typeof value === "string";
}

function isWhole(value: JsonValue): value is number {
  return typeof value === "number" && Number.isSafeInteger(value);
}
