import { readFileSync } from "node:fs";
import Type from "typebox";
import { Check } from "typebox/value";
import { jsonTrouble } from "../file-trouble.ts";
import { json } from "./http.ts";
import { below, fork } from "./random.ts";
import { ScenarioError } from "./scenario.ts";

/** The model's dimensions, for generating adapters. */
export interface Shape {
  readonly layers: number;
  readonly heads: number;
  readonly headDim: number;
}

export interface Upload {
  readonly type: string;
  readonly bytes: Uint8Array;
}

/** `--shape LAYERS,HEADS,HEAD_DIM`. Throws ScenarioError. */
export function parseShape(text: string): Shape {
  const [layers, heads, headDim, ...more] = text.split(",").map(Number);
  const numbers = [layers, heads, headDim];
  if (more.length > 0 || numbers.some((n) => n === undefined || !Number.isInteger(n) || n < 1))
    throw new ScenarioError(`--shape ${text}: expected LAYERS,HEADS,HEAD_DIM such as 12,12,64`);
  return { layers: layers!, heads: heads!, headDim: headDim! };
}

const ModelConfig = Type.Object({
  n_layer: Type.Integer({ minimum: 1 }),
  n_head: Type.Integer({ minimum: 1 }),
  n_embd: Type.Integer({ minimum: 1 }),
  vocab_size: Type.Integer({ minimum: 1 }),
});

/** Reads shape and vocabulary from a Hugging Face config.json. Throws ScenarioError. */
export function readModelConfig(file: string): { shape: Shape; vocabulary: number } {
  let config: unknown;
  try {
    config = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw new ScenarioError(`--model-config ${file}: ${jsonTrouble(error)}`);
  }
  if (!Check(ModelConfig, config))
    throw new ScenarioError(`--model-config ${file}: lacks n_layer, n_head, n_embd or vocab_size`);
  return {
    shape: { layers: config.n_layer, heads: config.n_head, headDim: config.n_embd / config.n_head },
    vocabulary: config.vocab_size,
  };
}

const BOUNDARY = "prefixd-load-files";

/** PEFT's two files as a multipart form: `values` are `[virtualTokens, layers * 2 * heads * headDim]`, fp32. */
export function adapterUpload({ layers, heads, headDim }: Shape, virtualTokens: number, values: Float32Array): Upload {
  const config = {
    peft_type: "PREFIX_TUNING",
    task_type: "CAUSAL_LM",
    num_virtual_tokens: virtualTokens,
    num_layers: layers,
    num_attention_heads: heads,
    token_dim: heads * headDim,
    inference_mode: true,
  };
  const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
  const header = JSON.stringify({
    prompt_embeddings: {
      dtype: "F32",
      shape: [virtualTokens, values.length / virtualTokens],
      data_offsets: [0, bytes.length],
    },
  });
  const padded = header.padEnd(Math.ceil(header.length / 8) * 8);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  const part = (name: string): string =>
    `--${BOUNDARY}\r\ncontent-disposition: form-data; name="${name}"; filename="${name}"\r\ncontent-type: application/octet-stream\r\n\r\n`;
  return {
    type: `multipart/form-data; boundary=${BOUNDARY}`,
    bytes: Buffer.concat([
      Buffer.from(part("adapter_config.json") + JSON.stringify(config) + `\r\n${part("adapter_model.safetensors")}`),
      length,
      Buffer.from(padded),
      bytes,
      Buffer.from(`\r\n--${BOUNDARY}--\r\n`),
    ]),
  };
}

/** Random keys and values of trained ones' magnitude, deterministic for each purpose. */
export function drawnAdapter(shape: Shape, virtualTokens: number, seed: number, purpose: string): Upload {
  const random = fork(seed, purpose);
  const values = Float32Array.from(
    { length: virtualTokens * shape.layers * 2 * shape.heads * shape.headDim },
    () => 2 * random() - 1,
  );
  return adapterUpload(shape, virtualTokens, values);
}

/** Finite values that overflow as soon as a token attends to them. */
export function poisonedAdapter(shape: Shape, virtualTokens: number): Upload {
  const values = new Float32Array(virtualTokens * shape.layers * 2 * shape.heads * shape.headDim).fill(3e38);
  for (let i = 0; i < values.length; i += 2) values[i] = -3e38;
  return adapterUpload(shape, virtualTokens, values);
}

/** A hard prompt of random token ids below `vocabulary`. */
export function drawnHardPrompt(virtualTokens: number, vocabulary: number, seed: number, purpose: string): Upload {
  const random = fork(seed, purpose);
  return json({ token_ids: Array.from({ length: virtualTokens }, () => below(random, vocabulary)) });
}
