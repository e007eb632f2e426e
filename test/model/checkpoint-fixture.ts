import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** One tensor to write: raw little-endian bytes, or fp32 values made from `seed`. */
export interface FixtureTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

export const TINY = {
  model_type: "gpt2",
  n_layer: 2,
  n_head: 2,
  n_embd: 8,
  n_positions: 6,
  vocab_size: 11,
  eos_token_id: 10,
  bos_token_id: 10,
};

/** fp32 tensor with values `seed + i / 100`. */
export function f32(shape: readonly number[], seed = 0): FixtureTensor {
  const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => seed + i / 100);
  return { dtype: "F32", shape, bytes: new Uint8Array(values.buffer) };
}

/** All weights of the TINY model; `prefix` is "" or "transformer.". */
export function tinyTensors(prefix = "transformer."): Map<string, FixtureTensor> {
  const { n_layer: layers, n_embd: d, n_positions: positions, vocab_size: vocab } = TINY;
  const tensors = new Map<string, FixtureTensor>();
  const put = (name: string, ...shape: number[]): void => {
    tensors.set(prefix + name, f32(shape, tensors.size));
  };
  put("wte.weight", vocab, d);
  put("wpe.weight", positions, d);
  for (let i = 0; i < layers; i++) {
    put(`h.${i}.ln_1.weight`, d);
    put(`h.${i}.ln_1.bias`, d);
    put(`h.${i}.attn.c_attn.weight`, d, 3 * d);
    put(`h.${i}.attn.c_attn.bias`, 3 * d);
    put(`h.${i}.attn.c_proj.weight`, d, d);
    put(`h.${i}.attn.c_proj.bias`, d);
    put(`h.${i}.ln_2.weight`, d);
    put(`h.${i}.ln_2.bias`, d);
    put(`h.${i}.mlp.c_fc.weight`, d, 4 * d);
    put(`h.${i}.mlp.c_fc.bias`, 4 * d);
    put(`h.${i}.mlp.c_proj.weight`, 4 * d, d);
    put(`h.${i}.mlp.c_proj.bias`, d);
  }
  put("ln_f.weight", d);
  put("ln_f.bias", d);
  return tensors;
}

export function safetensorsBytes(tensors: ReadonlyMap<string, FixtureTensor>): Buffer {
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  let offset = 0;
  for (const [name, { dtype, shape, bytes }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] };
    offset += bytes.length;
  }
  const json = Buffer.from(JSON.stringify(header));
  const padded = Buffer.concat([json, Buffer.alloc((8 - (json.length % 8)) % 8, " ")]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));
  return Buffer.concat([length, padded, ...[...tensors.values()].map((tensor) => tensor.bytes)]);
}

/** Writes a checkpoint folder; objects become JSON files, byte arrays are written as they are. */
export async function writeCheckpoint(dir: string, files: Readonly<Record<string, object>>): Promise<string> {
  await mkdir(dir, { recursive: true });
  for (const [name, content] of Object.entries(files)) {
    await writeFile(join(dir, name), content instanceof Uint8Array ? content : JSON.stringify(content));
  }
  return dir;
}
