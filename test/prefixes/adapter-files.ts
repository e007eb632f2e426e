/** PEFT's two files, of an adapter for the tests' model. */
import type { PrefixUpload } from "../../src/prefixes/registry-types.ts";
import { f32Bytes, safetensors } from "../support/safetensors.ts";
import { SHAPE } from "./records.ts";

/** Values per virtual token. */
export const COLUMNS = SHAPE.layers * 2 * SHAPE.width;
/** Virtual tokens. */
export const P = 3;

export const CONFIG = {
  auto_mapping: null,
  base_model_name_or_path: "gpt2",
  encoder_hidden_size: 8,
  inference_mode: true,
  num_attention_heads: SHAPE.heads,
  num_layers: SHAPE.layers,
  num_transformer_submodules: 1,
  num_virtual_tokens: P,
  peft_type: "PREFIX_TUNING",
  prefix_projection: false,
  revision: null,
  task_type: "CAUSAL_LM",
  token_dim: SHAPE.width,
};

export function floats(count: number, changes: Readonly<Record<number, number>> = {}): Uint8Array {
  return f32Bytes(Array.from({ length: count }, (_, i) => changes[i] ?? i / 8));
}

export function embeddings(
  shape: readonly number[],
  data = floats(shape.reduce((a, b) => a * b, 1)),
  dtype = "F32",
): Uint8Array {
  return safetensors({ prompt_embeddings: { dtype, shape, data } }, { format: "pt" });
}

export const SOUND = embeddings([P, COLUMNS]);

export function upload(config: object | string | Uint8Array = CONFIG, weights: Uint8Array = SOUND): PrefixUpload {
  const text =
    config instanceof Uint8Array ? config : Buffer.from(typeof config === "string" ? config : JSON.stringify(config));
  return { kind: "peft", config: new Uint8Array(text), weights };
}
