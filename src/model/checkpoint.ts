import { ModelLoadError } from "../errors.ts";
import type { ModelShape } from "../kv.ts";
import { type Gpt2Config, parseGpt2Config } from "./checkpoint-config.ts";
import { openTensorFiles, readExactly, readJson, type StoredTensor } from "./checkpoint-files.ts";
import { modelFingerprint, tensorDigests } from "./checkpoint-fingerprint.ts";
import { decodeFloatsInto } from "../formats/safetensors.ts";

export type { Activation, Gpt2Config } from "./checkpoint-config.ts";

/** Bytes per element of the supported dtypes. */
const FLOAT_BYTES: Readonly<Record<string, number>> = { F32: 4, F16: 2, BF16: 2 };

/** A weight on disk. */
export interface CheckpointTensor {
  /** As stored: F32, F16 or BF16. `chunks` always yields fp32. */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Of the stored bytes, in hex. */
  readonly sha256: string;
  /**
   * The values in order, as fp32, in chunks of at most `maxBytes`. Each chunk is valid only until the next one is
   * requested: the buffer is reused.
   */
  chunks(maxBytes: number): AsyncIterable<Float32Array>;
}

/** An open Hugging Face GPT-2 folder. */
export interface Checkpoint {
  readonly dir: string;
  readonly config: Gpt2Config;
  readonly shape: ModelShape;
  /** The content of generation_config.json; empty if there is none. Its EOS ids are in `config`. */
  readonly generation: Readonly<Record<string, unknown>>;
  /**
   * sha256 in hex of everything that determines the model's numbers; independent of how the weights are split into
   * files.
   */
  readonly fingerprint: string;
  /** Names without `transformer.`, such as `h.0.attn.c_attn.weight`. */
  readonly names: readonly string[];
  /**
   * Throws ModelLoadError if there is no such tensor. `lm_head.weight` exists only if `config.tieWordEmbeddings` is
   * false.
   */
  tensor(name: string): CheckpointTensor;
  close(): Promise<void>;
}

export interface CheckpointOptions {
  /** Folder that caches digests between starts; without it every start hashes the weights again. */
  readonly cacheDir?: string;
}

/**
 * Opens a GPT-2 checkpoint and checks that every weight exists with the right shape and a supported dtype. Weights are
 * streamed from disk. Throws ModelLoadError that names what is wrong.
 */
export async function openCheckpoint(dir: string, options: CheckpointOptions = {}): Promise<Checkpoint> {
  const json = await readJson(dir, "config.json");
  if (json === undefined) throw new ModelLoadError("model_not_found", `${dir} has no config.json`);
  const generation = await readJson(dir, "generation_config.json");
  const asked = parseGpt2Config(json, generation);
  const files = await openTensorFiles(dir);
  try {
    const stored = selectTensors(asked, files.tensors);
    const digests = await tensorDigests(stored, options.cacheDir);
    // As in transformers: a stored head that differs from the embeddings is not tied, whatever the config says.
    const head = digests.get("lm_head.weight");
    const tied = head === undefined || (asked.tieWordEmbeddings && head === digests.get("wte.weight"));
    if (tied) stored.delete("lm_head.weight");
    const config: Gpt2Config = { ...asked, tieWordEmbeddings: tied };
    const { layers, heads, headDim, width, positions, vocabSize } = config;
    return {
      dir,
      config,
      shape: { layers, heads, headDim, width, positions, vocabSize },
      generation: (generation ?? {}) as Checkpoint["generation"],
      fingerprint: modelFingerprint(config, stored, digests),
      names: [...stored.keys()],
      tensor(name) {
        const tensor = stored.get(name);
        if (tensor === undefined) throw new ModelLoadError("model_invalid", `the checkpoint has no tensor "${name}"`);
        return {
          dtype: tensor.dtype,
          shape: tensor.shape,
          sha256: digests.get(name)!,
          chunks: (maxBytes) => readChunks(tensor, maxBytes),
        };
      },
      close: () => files.close(),
    };
  } catch (error) {
    await files.close();
    throw error;
  }
}

/** Every weight of a GPT-2 with its shape; Conv1D weights are `[in, out]`. Without `lm_head.weight`. */
export function gpt2Tensors({
  layers,
  width,
  inner,
  positions,
  vocabSize,
}: Gpt2Config): Map<string, readonly number[]> {
  const shapes = new Map<string, readonly number[]>([
    ["wte.weight", [vocabSize, width]],
    ["wpe.weight", [positions, width]],
  ]);
  const linear = (name: string, from: number, to: number): void => {
    shapes.set(`${name}.weight`, [from, to]).set(`${name}.bias`, [to]);
  };
  const norm = (name: string): void => {
    shapes.set(`${name}.weight`, [width]).set(`${name}.bias`, [width]);
  };
  for (let layer = 0; layer < layers; layer++) {
    norm(`h.${layer}.ln_1`);
    linear(`h.${layer}.attn.c_attn`, width, 3 * width);
    linear(`h.${layer}.attn.c_proj`, width, width);
    norm(`h.${layer}.ln_2`);
    linear(`h.${layer}.mlp.c_fc`, width, inner);
    linear(`h.${layer}.mlp.c_proj`, inner, width);
  }
  norm("ln_f");
  return shapes;
}

/** The tensors the model needs, checked, in the order of `gpt2Tensors`; includes `lm_head.weight` if it is stored. */
function selectTensors(config: Gpt2Config, all: ReadonlyMap<string, StoredTensor>): Map<string, StoredTensor> {
  const wanted = gpt2Tensors(config);
  if (!config.tieWordEmbeddings || all.has("lm_head.weight"))
    wanted.set("lm_head.weight", [config.vocabSize, config.width]);
  const selected = new Map<string, StoredTensor>();
  for (const [name, shape] of wanted) {
    const tensor = all.get(name);
    if (tensor === undefined) throw new ModelLoadError("model_invalid", `tensor "${name}" is missing`);
    if (FLOAT_BYTES[tensor.dtype] === undefined) {
      throw new ModelLoadError(
        "model_unsupported",
        `tensor "${name}" has dtype ${tensor.dtype}: only ${Object.keys(FLOAT_BYTES).join(", ")} are supported`,
      );
    }
    if (tensor.shape.length !== shape.length || tensor.shape.some((size, axis) => size !== shape[axis])) {
      throw new ModelLoadError(
        "model_invalid",
        `tensor "${name}" has shape [${tensor.shape.join()}], config.json asks for [${shape.join()}]`,
      );
    }
    selected.set(name, tensor);
  }
  // A transformer weight that config.json does not account for means another model: more layers, adapters, quantised
  // parts.
  const causalMask = /^h\.\d+\.attn\.(masked_)?bias$/;
  for (const name of all.keys()) {
    if (/^(h|wte|wpe|ln_f)\./.test(name) && !selected.has(name) && !causalMask.test(name)) {
      throw new ModelLoadError("model_invalid", `tensor "${name}" is not part of the GPT-2 that config.json describes`);
    }
  }
  return selected;
}

async function* readChunks({ file, dtype, start, end }: StoredTensor, maxBytes: number): AsyncGenerator<Float32Array> {
  const width = FLOAT_BYTES[dtype] ?? 4;
  const elements = Math.min(Math.max(1, Math.floor(maxBytes / 4)), (end - start) / width);
  const bytes = new Uint8Array(elements * width);
  const floats = new Float32Array(elements);
  for (let at = start; at < end; at += bytes.length) {
    const chunk = await readExactly(file, at, Math.min(bytes.length, end - at), bytes);
    decodeFloatsInto(dtype, chunk, floats, 0);
    yield floats.subarray(0, chunk.length / width);
  }
}
