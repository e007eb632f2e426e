import { createHash, type Hash } from "node:crypto";
import { PrefixdError } from "../errors.ts";
import { oneTensorFile, parseSafetensorsHeader, safetensorsDataStart } from "../formats/safetensors.ts";
import type { SafetensorsHeader, TensorInfo } from "../formats/safetensors.ts";
import { quote } from "../formats/strict-json.ts";
import { SAFETENSORS_LIMITS, surplusTensors, TENSOR } from "./peft.ts";

/** Digests of the base model's embeddings in one dtype, to recognise copies of them. */
export interface EmbeddingDigests {
  /** [vocabulary, width] */
  readonly shape: readonly number[];
  /**
   * Digest of the values cast to the dtype as torch does, little-endian; hex. For tied embeddings the output's is the
   * input's.
   */
  readonly sha256: Readonly<Record<EmbeddingName, string>>;
}

export type EmbeddingName = "wte.weight" | "lm_head.weight";
export const EMBEDDING_DTYPES = ["F32", "F16", "BF16"] as const;
export type EmbeddingDtype = (typeof EMBEDDING_DTYPES)[number];
export type BaseEmbeddings = (dtype: EmbeddingDtype) => Promise<EmbeddingDigests>;

/**
 * Tensors that PEFT's `save_embedding_layers` adds to the prompt: input and output embeddings. Source: peft 0.21,
 * `get_peft_model_state_dict`.
 */
const COPIES: ReadonlyMap<string, EmbeddingName> = new Map([
  ["base_model.transformer.wte.weight", "wte.weight"],
  ["base_model.lm_head.weight", "lm_head.weight"],
]);
const WITHOUT = "save the adapter with save_pretrained(..., save_embedding_layers=False)";

export interface WeightsOptions {
  /** Maximum bytes kept in memory. */
  readonly limit: number;
  /** Absent: copies of embeddings are kept like everything else. */
  readonly embeddings?: BaseEmbeddings;
}

/**
 * Reads adapter_model.safetensors as a stream. PEFT saves copies of the base model's embeddings with an adapter when
 * told to (`save_embedding_layers`), and when it finds that the vocabulary was resized. Copies are compared with the
 * base's by digest, never held, and dropped: the result is the file PEFT would have saved without them. Any other file
 * is returned byte for byte; `parsePeftAdapter` decides whether it can be served. Throws `adapter_shape_mismatch` and
 * `prefix_base_mismatch`, which name the tensors, `safetensors_invalid`, `body_too_large`.
 */
export async function readAdapterWeights(
  source: AsyncIterable<Uint8Array>,
  { limit, embeddings }: WeightsOptions,
): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  // null if there is no readable header.
  let header: SafetensorsHeader | null | undefined;
  // Bytes needed to learn more of the header: first its length, then itself.
  let wanted = 8;
  let copies: Copies | undefined;
  for await (const chunk of source) {
    size += chunk.length;
    if (copies !== undefined) {
      copies.push(chunk);
      continue;
    }
    chunks.push(chunk);
    if (header === undefined && size >= wanted) {
      const start = Buffer.concat(chunks.splice(0), size);
      chunks.push(start);
      [header, wanted] = headerOf(start);
      if (embeddings !== undefined && header && hasCopies(header))
        copies = await Copies.begin(header, start, { limit, embeddings });
    }
    if (copies === undefined && Math.max(size, announced(header)) > limit) throw tooLarge(limit, header);
  }
  return copies === undefined ? Buffer.concat(chunks, size) : copies.end();
}

/** The header (undefined if incomplete) and the offset of its end. `start`: at least the file's first 8 bytes. */
function headerOf(start: Uint8Array): [header: SafetensorsHeader | null | undefined, end: number] {
  try {
    const end = safetensorsDataStart(start, null, SAFETENSORS_LIMITS.maxHeaderBytes);
    return [start.length < end ? undefined : parseSafetensorsHeader(start, null, SAFETENSORS_LIMITS), end];
  } catch (error) {
    if (error instanceof PrefixdError) return [null, 0];
    throw error;
  }
}

function hasCopies({ tensors }: SafetensorsHeader): boolean {
  const others = [...tensors.keys()].filter((name) => name !== TENSOR);
  return tensors.has(TENSOR) && others.length > 0 && others.every((name) => COPIES.has(name));
}

/** The file's size according to its header. */
function announced(header: SafetensorsHeader | null | undefined): number {
  return Math.max(0, ...[...(header?.tensors.values() ?? [])].map(({ end }) => end));
}

function tooLarge(limit: number, header?: SafetensorsHeader | null): PrefixdError {
  const others = [...(header?.tensors.keys() ?? [])].filter((name) => name !== TENSOR);
  if (others.length > 0) return surplusTensors(others);
  return new PrefixdError(
    "body_too_large",
    `adapter_model.safetensors is larger than ${limit} bytes, the most that could fit this model.`,
  );
}

/** A copy of the base's embeddings, hashed as it arrives. */
interface Copy {
  readonly name: string;
  readonly expected: string;
  readonly hash: Hash;
}

/** The data of a file with copies of embeddings: keeps the prompt, hashes the copies. */
class Copies {
  readonly #header: SafetensorsHeader;
  /** The file up to its data. */
  readonly #start: Uint8Array;
  readonly #prompt: Uint8Array;
  readonly #copies: readonly Copy[];
  /** In file order, without gaps. */
  readonly #regions: readonly { readonly end: number; readonly take: (bytes: Uint8Array, at: number) => void }[];
  /** Bytes of the file received so far. */
  #at: number;
  #region = 0;

  /** @param start the file's bytes so far, including the whole header */
  static async begin(
    header: SafetensorsHeader,
    start: Uint8Array,
    { limit, embeddings }: Required<WeightsOptions>,
  ): Promise<Copies> {
    const prompt = header.tensors.get(TENSOR)!;
    if (prompt.end - prompt.start > limit) throw tooLarge(limit);
    const copies = new Map<string, Copy>();
    for (const [name, tensor] of header.tensors) {
      const base = COPIES.get(name);
      if (base !== undefined)
        copies.set(name, {
          name,
          expected: (await baseOf(name, tensor, embeddings)).sha256[base],
          hash: createHash("sha256"),
        });
    }
    return new Copies(header, start, copies);
  }

  private constructor(header: SafetensorsHeader, start: Uint8Array, copies: ReadonlyMap<string, Copy>) {
    const inOrder = [...header.tensors].sort(([, a], [, b]) => a.start - b.start || a.end - b.end);
    const dataStart = inOrder[0]![1].start;
    const prompt = header.tensors.get(TENSOR)!;
    this.#header = header;
    this.#start = start.subarray(0, dataStart);
    this.#prompt = new Uint8Array(prompt.end - prompt.start);
    this.#copies = [...copies.values()];
    this.#regions = inOrder.map(([name, { end }]) => {
      const copy = copies.get(name);
      return {
        end,
        take:
          copy === undefined
            ? (bytes, at) => this.#prompt.set(bytes, at - prompt.start)
            : (bytes) => void copy.hash.update(bytes),
      };
    });
    this.#at = dataStart;
    this.push(start.subarray(dataStart));
  }

  push(bytes: Uint8Array): void {
    let from = 0;
    for (; from < bytes.length && this.#region < this.#regions.length; ) {
      const { end, take } = this.#regions[this.#region]!;
      const count = Math.min(bytes.length - from, end - this.#at);
      take(bytes.subarray(from, from + count), this.#at);
      this.#at += count;
      from += count;
      if (this.#at === end) this.#region++;
    }
    // Bytes after the last tensor.
    this.#at += bytes.length - from;
  }

  end(): Uint8Array {
    // Check again, now with the file's size: it may have been cut off, or continue after its last tensor.
    parseSafetensorsHeader(this.#start, this.#at, SAFETENSORS_LIMITS);
    const other = this.#copies.filter(({ hash, expected }) => hash.digest("hex") !== expected);
    if (other.length > 0) {
      const names = other.map(({ name }) => name).join(" and ");
      throw new PrefixdError(
        "prefix_base_mismatch",
        `The base model's own embeddings differ from the adapter's ${names}: it was trained with other embeddings than those served here. If it was not, ${WITHOUT}.`,
      );
    }
    return oneTensorFile(TENSOR, this.#header.tensors.get(TENSOR)!, this.#prompt, this.#header.metadata);
  }
}

/** Digest of the base's tensor. Throws `adapter_shape_mismatch` if this one cannot be a copy of it. */
async function baseOf(
  name: string,
  { dtype, shape }: TensorInfo,
  embeddings: BaseEmbeddings,
): Promise<EmbeddingDigests> {
  const known = EMBEDDING_DTYPES.find((one) => one === dtype);
  if (known === undefined)
    throw new PrefixdError("adapter_shape_mismatch", `${name} in the adapter has dtype ${quote(dtype)}; ${WITHOUT}.`);
  const base = await embeddings(known);
  if (shape.length === base.shape.length && shape.every((size, axis) => size === base.shape[axis])) return base;
  throw new PrefixdError(
    "adapter_shape_mismatch",
    `${name} in the adapter has shape [${shape.join(", ")}], the base model's has [${base.shape.join(", ")}]: the vocabulary was resized for training. Serve the model with that vocabulary, or, if its new tokens are not needed, ${WITHOUT}.`,
  );
}
