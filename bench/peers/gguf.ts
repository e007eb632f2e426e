/**
 * Writes a GPT-2 checkpoint as GGUF v3, the file that llama.cpp reads (its docs/gguf.md and src/llama-arch.cpp have the
 * names).
 *
 *     tsx bench/peers/gguf.ts CHECKPOINT OUT.gguf f32|q8_0
 *
 * Q8_0 as llama.cpp quantises: every matrix in blocks of 32 along its inputs, one half-precision scale each; norms,
 * biases and positions stay F32. The vocabulary's texts are placeholders: only ids are fed.
 */
import { open, rename } from "node:fs/promises";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { openCheckpoint, type Checkpoint } from "../../src/model/checkpoint.ts";
import { toFloat16 } from "../../src/formats/float16.ts";

export type GgufType = "f32" | "q8_0";

const ALIGNMENT = 32;
const BLOCK = 32;
/** ggml_type */
const TYPE_NUMBER: Readonly<Record<GgufType, number>> = { f32: 0, q8_0: 8 };
/** llama_ftype */
const FILE_TYPE: Readonly<Record<GgufType, number>> = { f32: 0, q8_0: 7 };
/** gguf_metadata_value_type */
const Value = { uint32: 4, int32: 5, float32: 6, string: 8, array: 9 } as const;

interface GgufTensor {
  readonly name: string;
  readonly source: string;
  readonly type: GgufType;
  /** Conv1D keeps `[in, out]`; GGUF wants a row per output. */
  readonly transposed: boolean;
}

export async function writeGguf(checkpoint: Checkpoint, path: string, type: GgufType): Promise<void> {
  const tensors = ggufTensors(checkpoint, type);
  const temporary = `${path}.${process.pid}`;
  const file = await open(temporary, "w");
  try {
    await file.write(header(checkpoint, tensors, type));
    for (const tensor of tensors) await file.write(padded(await tensorBytes(checkpoint, tensor)));
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}

function ggufTensors({ config }: Checkpoint, type: GgufType): GgufTensor[] {
  const plain = (name: string, source: string): GgufTensor => ({ name, source, type: "f32", transposed: false });
  const pair = (name: string, source: string): GgufTensor[] => [
    plain(`${name}.weight`, `${source}.weight`),
    plain(`${name}.bias`, `${source}.bias`),
  ];
  const linear = (name: string, source: string): GgufTensor[] => [
    { name: `${name}.weight`, source: `${source}.weight`, type, transposed: true },
    plain(`${name}.bias`, `${source}.bias`),
  ];
  const layers = Array.from({ length: config.layers }, (_, layer) => [
    ...pair(`blk.${layer}.attn_norm`, `h.${layer}.ln_1`),
    ...linear(`blk.${layer}.attn_qkv`, `h.${layer}.attn.c_attn`),
    ...linear(`blk.${layer}.attn_output`, `h.${layer}.attn.c_proj`),
    ...pair(`blk.${layer}.ffn_norm`, `h.${layer}.ln_2`),
    ...linear(`blk.${layer}.ffn_up`, `h.${layer}.mlp.c_fc`),
    ...linear(`blk.${layer}.ffn_down`, `h.${layer}.mlp.c_proj`),
  ]);
  const embeddings: GgufTensor = { name: "token_embd.weight", source: "wte.weight", type, transposed: false };
  return [embeddings, plain("position_embd.weight", "wpe.weight"), ...layers.flat(), ...pair("output_norm", "ln_f")];
}

function header(checkpoint: Checkpoint, tensors: readonly GgufTensor[], type: GgufType): Uint8Array {
  const { layers, heads, width, inner, positions, vocabSize, layerNormEpsilon } = checkpoint.config;
  const parts: Uint8Array[] = [];
  const number = (bytes: number, write: (view: DataView) => void): void => {
    const part = new Uint8Array(bytes);
    write(new DataView(part.buffer));
    parts.push(part);
  };
  const u32 = (value: number): void => number(4, (view) => view.setUint32(0, value, true));
  const u64 = (value: number): void => number(8, (view) => view.setBigUint64(0, BigInt(value), true));
  const f32 = (value: number): void => number(4, (view) => view.setFloat32(0, value, true));
  const text = (value: string): void => {
    const bytes = Buffer.from(value);
    u64(bytes.length);
    parts.push(bytes);
  };
  const entries: (() => void)[] = [];
  const entry = (key: string, valueType: number, write: () => void): void => {
    entries.push(() => {
      text(key);
      u32(valueType);
      write();
    });
  };
  const integer = (key: string, value: number): void => entry(key, Value.uint32, () => u32(value));
  const list = <T>(key: string, valueType: number, items: readonly T[], write: (item: T) => void): void =>
    entry(key, Value.array, () => {
      u32(valueType);
      u64(items.length);
      items.forEach(write);
    });
  entry("general.architecture", Value.string, () => text("gpt2"));
  integer("general.file_type", FILE_TYPE[type]);
  integer("gpt2.block_count", layers);
  integer("gpt2.context_length", positions);
  integer("gpt2.embedding_length", width);
  integer("gpt2.feed_forward_length", inner);
  integer("gpt2.attention.head_count", heads);
  entry("gpt2.attention.layer_norm_epsilon", Value.float32, () => f32(layerNormEpsilon));
  const tokens = Array.from({ length: vocabSize }, (_, id) => `t${id}`);
  entry("tokenizer.ggml.model", Value.string, () => text("gpt2"));
  entry("tokenizer.ggml.pre", Value.string, () => text("gpt-2"));
  list("tokenizer.ggml.tokens", Value.string, tokens, text);
  list("tokenizer.ggml.token_type", Value.int32, tokens, () => u32(1));
  list("tokenizer.ggml.merges", Value.string, ["t t"], text);
  integer("tokenizer.ggml.bos_token_id", vocabSize - 1);
  integer("tokenizer.ggml.eos_token_id", vocabSize - 1);

  parts.push(Buffer.from("GGUF"));
  u32(3);
  u64(tensors.length);
  u64(entries.length);
  for (const write of entries) write();
  let offset = 0;
  for (const tensor of tensors) {
    const shape = checkpoint.tensor(tensor.source).shape;
    // Innermost first: a Conv1D's stored order is that already.
    const dims = tensor.transposed ? shape : [...shape].reverse();
    text(tensor.name);
    u32(dims.length);
    dims.forEach(u64);
    u32(TYPE_NUMBER[tensor.type]);
    u64(offset);
    offset += roundUp(
      byteLength(
        tensor.type,
        shape.reduce((product, dim) => product * dim, 1),
      ),
    );
  }
  return padded(Buffer.concat(parts));
}

async function tensorBytes(checkpoint: Checkpoint, { source, type, transposed }: GgufTensor): Promise<Uint8Array> {
  const tensor = checkpoint.tensor(source);
  const stored = new Float32Array(tensor.shape.reduce((product, dim) => product * dim, 1));
  let at = 0;
  for await (const chunk of tensor.chunks(1 << 24)) {
    stored.set(chunk, at);
    at += chunk.length;
  }
  const values = transposed ? transpose(stored, tensor.shape[0]!, tensor.shape[1]!) : stored;
  return type === "f32" ? new Uint8Array(values.buffer) : quantise(values);
}

function transpose(values: Float32Array, rows: number, columns: number): Float32Array {
  const out = new Float32Array(values.length);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) out[column * rows + row] = values[row * columns + column]!;
  return out;
}

/** Blocks of 32: scale d = max|x| / 127 in half precision, then 32 x round(x / d) in int8 (quantize_row_q8_0). */
function quantise(values: Float32Array): Uint8Array {
  const blocks = values.length / BLOCK;
  const scales = new Float32Array(blocks);
  const out = new Uint8Array(byteLength("q8_0", values.length));
  const view = new DataView(out.buffer);
  for (let block = 0; block < blocks; block++) {
    let most = 0;
    for (let index = block * BLOCK; index < (block + 1) * BLOCK; index++)
      most = Math.max(most, Math.abs(values[index]!));
    scales[block] = most / 127;
    const inverse = most === 0 ? 0 : 127 / most;
    for (let index = 0; index < BLOCK; index++)
      view.setInt8(block * (BLOCK + 2) + 2 + index, Math.round(values[block * BLOCK + index]! * inverse));
  }
  toFloat16(scales).forEach((bits, block) => view.setUint16(block * (BLOCK + 2), bits, true));
  return out;
}

function byteLength(type: GgufType, elements: number): number {
  return type === "f32" ? elements * 4 : (elements / BLOCK) * (BLOCK + 2);
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

function padded(bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(roundUp(bytes.length));
  out.set(bytes);
  return out;
}

if (process.argv[1] !== undefined && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const [dir = "", out = "", type = "f32"] = process.argv.slice(2);
  const checkpoint = await openCheckpoint(dir);
  await writeGguf(checkpoint, out, type as GgufType);
  await checkpoint.close();
}
