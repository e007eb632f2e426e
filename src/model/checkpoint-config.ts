import { ModelLoadError } from "../errors.ts";

export const ACTIVATIONS = ["gelu_new", "gelu", "gelu_pytorch_tanh", "relu"] as const;
export type Activation = (typeof ACTIVATIONS)[number];

/** A GPT-2's config.json and generation_config.json, with transformers' defaults filled in. */
export interface Gpt2Config {
  readonly layers: number;
  readonly heads: number;
  readonly headDim: number;
  /** n_embd = heads * headDim. */
  readonly width: number;
  /** n_inner: width of the MLP. */
  readonly inner: number;
  readonly positions: number;
  readonly vocabSize: number;
  readonly layerNormEpsilon: number;
  readonly activation: Activation;
  /** False: attention scores are not divided by sqrt(headDim). */
  readonly scaleAttnWeights: boolean;
  /** True: the scores of layer i (from 0) are also divided by i + 1. */
  readonly scaleAttnByInverseLayerIdx: boolean;
  /** False: the head has its own tensor, `lm_head.weight`. */
  readonly tieWordEmbeddings: boolean;
  /** Ids that end a text. Ids outside the vocabulary can never be generated and are dropped. */
  readonly eosIds: readonly number[];
  readonly bosId: number | null;
}

type Json = Readonly<Record<string, unknown>>;

/** GPT2Config's `attribute_map`: transformers accepts either spelling. */
const ALIASES: Readonly<Record<string, string>> = {
  n_embd: "hidden_size",
  n_positions: "max_position_embeddings",
  n_head: "num_attention_heads",
  n_layer: "num_hidden_layers",
};

/**
 * Reads a GPT-2 configuration as transformers' GPT2Config does; `generation` is generation_config.json, if there is
 * one. Throws ModelLoadError for any setting that would change the numbers and is not implemented.
 */
export function parseGpt2Config(config: unknown, generation?: unknown): Gpt2Config {
  if (!isObject(config)) throw invalid("config.json is not a JSON object");
  if (generation !== undefined && !isObject(generation)) throw invalid("generation_config.json is not a JSON object");
  refuseUnsupported(config);

  const heads = size(config, "n_head", 12);
  const width = size(config, "n_embd", 768);
  if (width % heads !== 0) throw invalid(`config.json: n_embd ${width} is not a multiple of n_head ${heads}`);
  const vocabSize = size(config, "vocab_size", 50257);
  const eos = endIds(generation, "generation_config.json") ?? endIds(config, "config.json") ?? [50256];
  return {
    layers: size(config, "n_layer", 12),
    heads,
    headDim: width / heads,
    width,
    inner: get(config, "n_inner") === null ? 4 * width : size(config, "n_inner", 4 * width),
    positions: size(config, "n_positions", 1024),
    vocabSize,
    layerNormEpsilon: epsilon(config),
    activation: activation(config),
    scaleAttnWeights: flag(config, "scale_attn_weights", true),
    scaleAttnByInverseLayerIdx: flag(config, "scale_attn_by_inverse_layer_idx", false),
    tieWordEmbeddings: flag(config, "tie_word_embeddings", true),
    eosIds: [...new Set(eos)].filter((id) => id < vocabSize),
    bosId: bos(config, vocabSize),
  };
}

function refuseUnsupported(config: Json): void {
  const type = get(config, "model_type");
  const architectures = get(config, "architectures");
  // The first GPT-2 uploads name only their architecture.
  const legacy =
    type === undefined && Array.isArray(architectures) && architectures.some((name) => /^GPT2[A-Z]/.test(String(name)));
  if (type !== "gpt2" && !legacy) {
    throw unsupported(`model_type ${show(type)} is not supported: only "gpt2" is`);
  }
  for (const key of ["add_cross_attention", "is_encoder_decoder"]) {
    if (flag(config, key, false)) throw unsupported(`${key} true is not supported`);
  }
  for (const key of ["quantization_config", "pruned_heads"]) {
    const value = get(config, key);
    const empty = value === undefined || value === null || (isObject(value) && Object.keys(value).length === 0);
    if (!empty) throw unsupported(`${key} is not supported: load the plain checkpoint`);
  }
  // reorder_and_upcast_attn only computes the scores in fp32, which this graph does anyway.
  flag(config, "reorder_and_upcast_attn", false);
}

function activation(config: Json): Activation {
  const name = get(config, "activation_function") ?? "gelu_new";
  const known = ACTIVATIONS.find((candidate) => candidate === name);
  if (known === undefined) {
    throw unsupported(`activation_function ${show(name)} is not supported: only ${ACTIVATIONS.join(", ")} are`);
  }
  return known;
}

function epsilon(config: Json): number {
  const value = get(config, "layer_norm_epsilon") ?? 1e-5;
  if (typeof value !== "number" || !(value > 0) || !Number.isFinite(value)) {
    throw invalid(`config.json: layer_norm_epsilon ${show(value)} is not a positive number`);
  }
  return value;
}

/** `eos_token_id`: a number or a list of them. Empty for null; undefined if absent. */
function endIds(config: Json | undefined, file: string): number[] | undefined {
  const value = config && get(config, "eos_token_id");
  if (value === undefined) return undefined;
  // transformers falls back to the model's own id if generation_config.json has null.
  if (value === null) return file === "config.json" ? [] : undefined;
  const ids: unknown[] = Array.isArray(value) ? value : [value];
  return ids.map((id) => {
    if (!isTokenId(id)) throw invalid(`${file}: eos_token_id ${show(value)} is not a token id or a list of them`);
    return id;
  });
}

function bos(config: Json, vocabSize: number): number | null {
  const value = get(config, "bos_token_id");
  if (value === null) return null;
  const id = value ?? 50256;
  if (!isTokenId(id)) throw invalid(`config.json: bos_token_id ${show(value)} is not a token id`);
  return id < vocabSize ? id : null;
}

function size(config: Json, key: string, fallback: number): number {
  const value = get(config, key) ?? fallback;
  if (typeof value !== "number" || !Number.isInteger(value) || value < 1 || value > 0x7fff_ffff) {
    throw invalid(`config.json: ${key} ${show(value)} is not a positive integer`);
  }
  return value;
}

function flag(config: Json, key: string, fallback: boolean): boolean {
  const value = get(config, key) ?? fallback;
  if (typeof value !== "boolean") throw invalid(`config.json: ${key} ${show(value)} is not true or false`);
  return value;
}

function get(config: Json, key: string): unknown {
  if (Object.hasOwn(config, key)) return config[key];
  const alias = ALIASES[key];
  return alias !== undefined && Object.hasOwn(config, alias) ? config[alias] : undefined;
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isTokenId(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= 0;
}

function show(value: unknown): string {
  return value === undefined ? "(missing)" : JSON.stringify(value).slice(0, 100);
}

function invalid(detail: string): ModelLoadError {
  return new ModelLoadError("model_invalid", detail);
}

function unsupported(detail: string): ModelLoadError {
  return new ModelLoadError("model_unsupported", `config.json: ${detail}`);
}
