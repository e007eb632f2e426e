import { PrefixdError } from "../errors.ts";
import { kvElements } from "../kv.ts";
import type { FoldInput, KvTensor, ModelShape } from "../kv.ts";
import { decodeFloats, parseSafetensorsHeader } from "../formats/safetensors.ts";
import type { SafetensorsHeader, TensorInfo } from "../formats/safetensors.ts";
import { quote } from "../formats/strict-json.ts";
import { firstNotFinite } from "./digest.ts";
import { splitHeads } from "./peft-layout.ts";
import { parsePeftConfig } from "./peft-config.ts";
import type { PeftConfig } from "./peft-config.ts";

/** A checked adapter: keys and values, or a soft prompt that the model must fold. */
export type PeftAdapter = Pick<PeftConfig, "peftType" | "baseName" | "baseRevision"> &
  ({ readonly kv: KvTensor } | { readonly fold: Extract<FoldInput, { kind: "embeddings" }> });

/** PEFT's names of an adapter's two files. */
export const CONFIG_FILE = "adapter_config.json";
export const WEIGHTS_FILE = "adapter_model.safetensors";

/** The one tensor that PEFT saves for every supported type. */
export const TENSOR = "prompt_embeddings";
/** One tensor is needed; the rest is for `__metadata__` and for naming tensors that do not belong. */
export const SAFETENSORS_LIMITS = { maxHeaderBytes: 256 * 1024, maxTensors: 1024, maxNameLength: 256 };

/** Upper bound of an adapter's size for this model, both files together. */
export function maxAdapterBytes(shape: ModelShape): number {
  return kvElements(shape, shape.positions - 1) * 4 + SAFETENSORS_LIMITS.maxHeaderBytes + (1 << 20);
}

/** Values read per step: a few milliseconds of work. */
const STRETCH = 1 << 19;

/**
 * Parses and checks PEFT's two files against the base model. Throws `adapter_config_invalid`,
 * `adapter_type_unsupported`, `adapter_shape_mismatch`, `safetensors_invalid`, `prefix_not_finite`, `prefix_too_long`,
 * `prefix_base_mismatch`.
 */
export function parsePeftAdapter(
  config: Uint8Array,
  weights: Uint8Array,
  shape: ModelShape,
  baseFingerprint: string,
): PeftAdapter {
  const steps = peftAdapterInSteps(config, weights, shape, baseFingerprint);
  let step = steps.next();
  while (step.done !== true) step = steps.next();
  return step.value;
}

/**
 * The same in steps, so that others can run in between: a long prefix of a large model has a hundred million values.
 */
export function* peftAdapterInSteps(
  config: Uint8Array,
  weights: Uint8Array,
  shape: ModelShape,
  baseFingerprint: string,
): Generator<void, PeftAdapter> {
  const parsed = parsePeftConfig(config, shape);
  refuseOtherFormats(weights);
  const header = parseSafetensorsHeader(weights, weights.length, SAFETENSORS_LIMITS);
  checkBase(parsed, header, baseFingerprint);
  const tensor = findTensor(header);
  const length = checkShape(tensor, parsed, shape);
  const columns = tensor.shape[1]!;
  const data = new Float32Array(length * columns);
  const rowBytes = (tensor.end - tensor.start) / length;
  const rowsAtOnce = Math.max(1, Math.floor(STRETCH / columns));
  for (let row = 0; row < length; row += rowsAtOnce) {
    if (row > 0) yield;
    const end = Math.min(length, row + rowsAtOnce);
    const values = decodeFloats(
      tensor.dtype,
      weights.subarray(tensor.start + row * rowBytes, tensor.start + end * rowBytes),
    );
    const bad = firstNotFinite(values);
    if (bad >= 0) {
      throw new PrefixdError(
        "prefix_not_finite",
        `${TENSOR} has ${values[bad]} in row ${row + Math.floor(bad / columns)}, column ${bad % columns}; all values must be finite.`,
      );
    }
    if (parsed.layout === "embeddings") data.set(values, row * columns);
    else splitHeads(values, row, data, length, shape);
  }
  const { peftType, baseName, baseRevision } = parsed;
  return {
    peftType,
    baseName,
    baseRevision,
    ...(parsed.layout === "embeddings" ? { fold: { kind: "embeddings", length, data } } : { kv: { length, data } }),
  };
}

/** Ends a sentence. */
export const PICKLES_ARE_NOT_READ =
  "pickle files can run code and are never read. Save the adapter with safe_serialization=True.";

/** Recognises formats uploaded by mistake by their first bytes. */
function refuseOtherFormats(weights: Uint8Array): void {
  const text = String.fromCharCode(...weights.subarray(0, 24));
  const refuse = (sentence: string): never => {
    throw new PrefixdError("safetensors_invalid", sentence);
  };
  if (text.startsWith("PK\x03\x04"))
    refuse(`The weights are a zip archive, such as a PyTorch .bin file: ${PICKLES_ARE_NOT_READ}`);
  if (/^\x80[\x02-\x05]/.test(text)) refuse(`The weights are a Python pickle: ${PICKLES_ARE_NOT_READ}`);
  if (text.startsWith("version https://git-lfs"))
    refuse("The weights are a Git LFS pointer, not the file itself; fetch it with git lfs pull.");
  if (text.startsWith("\x1f\x8b")) refuse("The weights are compressed with gzip; send the safetensors file itself.");
  if (text.startsWith("GGUF")) refuse("The weights are a GGUF file; a safetensors file is needed.");
  if (text.startsWith("\x89HDF")) refuse("The weights are an HDF5 file; a safetensors file is needed.");
}

function checkBase(config: PeftConfig, header: SafetensorsHeader, baseFingerprint: string): void {
  for (const [where, given] of [
    ["adapter_config.json", config.base],
    ["the safetensors metadata", header.metadata.get("prefixd_base_fingerprint") ?? null],
  ] as const) {
    if (given === null || given === baseFingerprint) continue;
    throw new PrefixdError(
      "prefix_base_mismatch",
      `prefixd_base_fingerprint in ${where} is not that of the base model served here.`,
    );
  }
}

function findTensor(header: SafetensorsHeader): TensorInfo {
  const names = [...header.tensors.keys()];
  if (names.length === 0) throw new PrefixdError("adapter_shape_mismatch", "The safetensors file has no tensors.");
  if (names.some((name) => name.startsWith("control_trans."))) {
    throw new PrefixdError(
      "adapter_type_unsupported",
      "The weights are a checkpoint of the original PrefixTuning repository; run its control_trans network once and save the result as prompt_embeddings.",
    );
  }
  const extra = names.filter((name) => name !== TENSOR);
  const tensor = header.tensors.get(TENSOR);
  if (tensor === undefined)
    throw new PrefixdError(
      "adapter_shape_mismatch",
      `The safetensors file has no tensor ${TENSOR}, but ${quoteSome(extra)}.`,
    );
  if (extra.length > 0) throw surplusTensors(extra);
  if (!["F32", "F16", "BF16"].includes(tensor.dtype)) {
    throw new PrefixdError(
      "adapter_shape_mismatch",
      `${TENSOR} has dtype ${tensor.dtype}; it must be F32, F16 or BF16.`,
    );
  }
  return tensor;
}

/** The error for tensors that only a changed base model would need. */
export function surplusTensors(names: readonly string[]): PrefixdError {
  return new PrefixdError(
    "adapter_shape_mismatch",
    `The safetensors file has ${quoteSome(names)} besides ${TENSOR}, and only that can be served. Save the adapter with save_pretrained(..., save_embedding_layers=False); other trained weights cannot be served.`,
  );
}

/** Quotes the first names of an untrusted, possibly long list. */
function quoteSome(names: readonly string[]): string {
  const more = names.length > 3 ? ` and ${names.length - 3} more` : "";
  return names.slice(0, 3).map(quote).join(", ") + more;
}

/** Returns the number of virtual tokens. */
function checkShape(tensor: TensorInfo, config: PeftConfig, shape: ModelShape): number {
  const mismatch = (sentence: string): PrefixdError => new PrefixdError("adapter_shape_mismatch", sentence);
  if (tensor.shape.length !== 2) throw mismatch(`${TENSOR} has ${tensor.shape.length} dimensions; it must have 2.`);
  const [rows, columns] = tensor.shape as [number, number];
  const ofKv = shape.layers * 2 * shape.width;
  const wanted = config.layout === "kv" ? ofKv : shape.width;
  if (columns !== wanted) {
    const is = `${TENSOR} has rows of ${columns} values`;
    if (config.layout === "kv" && columns === shape.width)
      throw mismatch(`${is}: embeddings, but ${config.peftType} needs the keys and values of all layers, ${wanted}.`);
    if (config.layout === "embeddings" && columns === ofKv)
      throw mismatch(`${is}: keys and values, but ${config.peftType} needs embeddings of ${wanted}.`);
    throw mismatch(`${is}; ${config.peftType} on this base model needs ${wanted}.`);
  }
  if (rows === 0) throw mismatch(`${TENSOR} has no rows; a prefix has at least one virtual token.`);
  if (config.virtualTokens !== null && rows !== config.virtualTokens) {
    throw mismatch(`${TENSOR} has ${rows} rows, but num_virtual_tokens is ${config.virtualTokens}.`);
  }
  checkLength(rows, shape);
  return rows;
}

/** A prefix must leave room for at least one token. Throws `prefix_too_long`. */
export function checkLength(length: number, shape: ModelShape): void {
  if (length < shape.positions) return;
  throw new PrefixdError(
    "prefix_too_long",
    `The prefix has ${length} virtual tokens; the base model has ${shape.positions} positions, so at most ${shape.positions - 1} fit.`,
  );
}
