import type { FileHandle } from "node:fs/promises";
import { PrefixdError } from "../errors.ts";
import { decodeUtf8, isJsonObject, JsonDefect, parseStrictJson, quote } from "./strict-json.ts";
import type { JsonValue } from "./strict-json.ts";

/** Bytes per element of the dtypes that take whole bytes; sub-byte dtypes are refused as unknown. */
const BYTES_PER_ELEMENT: ReadonlyMap<string, number> = new Map([
  ["BOOL", 1],
  ["U8", 1],
  ["I8", 1],
  ["F8_E5M2", 1],
  ["F8_E4M3", 1],
  ["F8_E8M0", 1],
  ["I16", 2],
  ["U16", 2],
  ["F16", 2],
  ["BF16", 2],
  ["I32", 4],
  ["U32", 4],
  ["F32", 4],
  ["I64", 8],
  ["U64", 8],
  ["F64", 8],
  ["C64", 8],
]);

export interface SafetensorsLimits {
  readonly maxHeaderBytes: number;
  /** Default 100,000. */
  readonly maxTensors?: number;
  /** Characters. Default 1024. */
  readonly maxNameLength?: number;
}

export interface TensorInfo {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Byte range `[start, end)` in the file, counted from its first byte. */
  readonly start: number;
  readonly end: number;
}

export interface SafetensorsHeader {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: ReadonlyMap<string, string>;
}

const LENGTH_BYTES = 8;
const MAX_RANK = 16;
/** The limit of the format's reference implementation. */
const FORMAT_MAX_HEADER = 100_000_000;

function invalid(sentence: string): PrefixdError {
  return new PrefixdError("safetensors_invalid", sentence);
}

/**
 * Reads and checks the header of a safetensors file. `bytes` begins at the file's first byte and holds at least the
 * header. `totalSize` is the size of the whole file; null: unknown, so the file's end is not checked. As the format
 * requires, tensors must cover the data exactly, without overlaps or holes. Throws `safetensors_invalid`.
 */
export function parseSafetensorsHeader(
  bytes: Uint8Array,
  totalSize: number | null,
  given: SafetensorsLimits,
): SafetensorsHeader {
  const limits = { maxTensors: 100_000, maxNameLength: 1024, ...given };
  const dataStart = safetensorsDataStart(bytes, totalSize, limits.maxHeaderBytes);
  if (bytes.length < dataStart) throw invalid("The safetensors header is cut short.");
  const entries = parseHeaderJson(bytes.subarray(LENGTH_BYTES, dataStart), limits.maxTensors);
  const tensors = new Map<string, TensorInfo>();
  let metadata: ReadonlyMap<string, string> = new Map();
  for (const [name, entry] of entries) {
    if (name === "__metadata__") {
      metadata = readMetadata(entry);
      continue;
    }
    if (name.length > limits.maxNameLength)
      throw invalid(`The name of tensor ${quote(name)} is longer than ${limits.maxNameLength} characters.`);
    if (tensors.size === limits.maxTensors)
      throw invalid(`The safetensors file has more than ${limits.maxTensors} tensors.`);
    tensors.set(name, readTensorInfo(name, entry, dataStart, totalSize ?? Infinity));
  }
  checkCoverage(tensors, dataStart, totalSize);
  return { tensors, metadata };
}

/** The same for an open file; reads only the header. */
export async function readSafetensorsHeader(
  file: FileHandle,
  limits: SafetensorsLimits = { maxHeaderBytes: FORMAT_MAX_HEADER },
): Promise<SafetensorsHeader> {
  const { size } = await file.stat();
  const dataStart = safetensorsDataStart(
    await readStart(file, Math.min(LENGTH_BYTES, size)),
    size,
    limits.maxHeaderBytes,
  );
  return parseSafetensorsHeader(await readStart(file, dataStart), size, limits);
}

async function readStart(file: FileHandle, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let filled = 0;
  while (filled < length) {
    const { bytesRead } = await file.read(bytes, filled, length - filled, filled);
    if (bytesRead === 0) throw invalid("The safetensors file became shorter while it was read.");
    filled += bytesRead;
  }
  return bytes;
}

/** The offset of the data, from the file's first 8 bytes. `totalSize` as above. Throws `safetensors_invalid`. */
export function safetensorsDataStart(bytes: Uint8Array, totalSize: number | null, maxHeaderBytes: number): number {
  if (totalSize === 0) throw invalid("The safetensors file is empty.");
  if (bytes.length < LENGTH_BYTES) throw invalid("The safetensors file is shorter than its 8-byte header length.");
  const claimed = new DataView(bytes.buffer, bytes.byteOffset, LENGTH_BYTES).getBigUint64(0, true);
  const length = Number(claimed);
  if (length > maxHeaderBytes)
    throw invalid(`The safetensors header claims ${claimed} bytes; at most ${maxHeaderBytes} are allowed.`);
  if (length > (totalSize ?? Infinity) - LENGTH_BYTES)
    throw invalid(`The safetensors header claims ${length} bytes, more than the file holds.`);
  if (length < 2) throw invalid("The safetensors header is too short to be a JSON object.");
  return LENGTH_BYTES + length;
}

function parseHeaderJson(bytes: Uint8Array, maxTensors: number): ReadonlyMap<string, JsonValue> {
  try {
    const text = decodeUtf8(bytes);
    // Per tensor: the entry, a dtype, two arrays, two offsets and the dimensions. The rest is for metadata.
    const json = parseStrictJson(text, { maxDepth: 3, maxValues: maxTensors * (6 + MAX_RANK) + 65_536 });
    if (!isJsonObject(json)) throw new JsonDefect("it is not a JSON object");
    if (text[0] !== "{") throw new JsonDefect("it does not begin with an opening brace");
    return json;
  } catch (error) {
    if (error instanceof JsonDefect) throw invalid(`The safetensors header is not valid: ${error.message}.`);
    throw error;
  }
}

function readMetadata(entry: JsonValue): ReadonlyMap<string, string> {
  if (!isJsonObject(entry)) throw invalid("__metadata__ of the safetensors file is not an object.");
  const metadata = new Map<string, string>();
  for (const [key, value] of entry) {
    if (typeof value !== "string")
      throw invalid(`__metadata__ of the safetensors file has a value that is not a string, at ${quote(key)}.`);
    metadata.set(key, value);
  }
  return metadata;
}

function readTensorInfo(name: string, entry: JsonValue, dataStart: number, totalSize: number): TensorInfo {
  const tensor = `Tensor ${quote(name)}`;
  if (!isJsonObject(entry)) throw invalid(`${tensor} is not described by an object.`);
  for (const key of entry.keys()) {
    if (key !== "dtype" && key !== "shape" && key !== "data_offsets")
      throw invalid(`${tensor} has the unknown field ${quote(key)}.`);
  }
  const dtype = entry.get("dtype");
  if (typeof dtype !== "string") throw invalid(`${tensor} needs a dtype that is a string.`);
  const elementBytes = BYTES_PER_ELEMENT.get(dtype);
  if (elementBytes === undefined) throw invalid(`${tensor} has the unknown dtype ${quote(dtype)}.`);
  const shape = readSizes(entry.get("shape"));
  if (shape === null) throw invalid(`${tensor} needs a shape that is a list of whole numbers from 0 to 2^53 - 1.`);
  if (shape.length > MAX_RANK) throw invalid(`${tensor} has more than ${MAX_RANK} dimensions.`);
  let size = elementBytes;
  for (const dimension of shape) {
    size *= dimension;
    if (!Number.isSafeInteger(size)) throw invalid(`${tensor} has a shape whose product is too large.`);
  }
  const offsets = readSizes(entry.get("data_offsets"));
  if (offsets === null || offsets.length !== 2)
    throw invalid(`${tensor} needs data_offsets that are two whole numbers.`);
  const [begin, end] = offsets as [number, number];
  if (begin > end) throw invalid(`${tensor} has data_offsets in reverse order.`);
  if (end > totalSize - dataStart)
    throw invalid(`${tensor} ends at byte ${end} of the data, beyond the end of the file.`);
  if (end - begin !== size)
    throw invalid(`${tensor} takes ${end - begin} bytes by its data_offsets but ${size} by its dtype and shape.`);
  return { dtype, shape, start: dataStart + begin, end: dataStart + end };
}

function readSizes(value: JsonValue | undefined): number[] | null {
  if (!Array.isArray(value)) return null;
  const items = value as readonly JsonValue[];
  return items.every((n): n is number => typeof n === "number" && Number.isSafeInteger(n) && n >= 0)
    ? [...items]
    : null;
}

function checkCoverage(tensors: ReadonlyMap<string, TensorInfo>, dataStart: number, totalSize: number | null): void {
  const inOrder = [...tensors].sort(([, a], [, b]) => a.start - b.start || a.end - b.end);
  let covered = dataStart;
  for (const [name, { start, end }] of inOrder) {
    if (start < covered) throw invalid(`Tensor ${quote(name)} overlaps another tensor.`);
    if (start > covered)
      throw invalid(`There are ${start - covered} bytes that belong to no tensor before tensor ${quote(name)}.`);
    covered = end;
  }
  if (totalSize !== null && covered !== totalSize)
    throw invalid(`The safetensors file has ${totalSize - covered} bytes after its last tensor.`);
}

/** A tensor to write: `data` as the dtype has it, little-endian. */
export interface TensorData extends Pick<TensorInfo, "dtype" | "shape"> {
  readonly data: Uint8Array;
}

/** A file of tensors, in the order given, with data aligned to 8 bytes as in the reference implementation. */
export function tensorFile(
  tensors: ReadonlyMap<string, TensorData>,
  metadata: ReadonlyMap<string, string> = new Map(),
): Uint8Array {
  const header: Record<string, unknown> = metadata.size === 0 ? {} : { __metadata__: Object.fromEntries(metadata) };
  let end = 0;
  for (const [name, { dtype, shape, data }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [end, end + data.length] };
    end += data.length;
  }
  const json = Buffer.from(JSON.stringify(header));
  const padded = Buffer.alloc(Math.ceil(json.length / LENGTH_BYTES) * LENGTH_BYTES, " ");
  json.copy(padded);
  const length = Buffer.alloc(LENGTH_BYTES);
  length.writeBigUInt64LE(BigInt(padded.length));
  return new Uint8Array(Buffer.concat([length, padded, ...[...tensors.values()].map(({ data }) => data)]));
}

/** A file of one tensor. */
export function oneTensorFile(
  name: string,
  { dtype, shape }: Pick<TensorInfo, "dtype" | "shape">,
  data: Uint8Array,
  metadata: ReadonlyMap<string, string>,
): Uint8Array {
  return tensorFile(new Map([[name, { dtype, shape, data }]]), metadata);
}

/** Decodes little-endian F32, F16 or BF16 of any alignment to new fp32 values; exact. Throws `safetensors_invalid`. */
export function decodeFloats(dtype: string, bytes: Uint8Array): Float32Array {
  const floats = new Float32Array(Math.floor(bytes.length / floatWidth(dtype)));
  decodeFloatsInto(dtype, bytes, floats, 0);
  return floats;
}

/** The same into `out` from index `at`, to assemble a large tensor from chunks. */
export function decodeFloatsInto(dtype: string, bytes: Uint8Array, out: Float32Array, at: number): void {
  const width = floatWidth(dtype);
  if (bytes.length % width !== 0)
    throw invalid(`A chunk of ${bytes.length} bytes does not hold a whole number of ${dtype} values.`);
  const count = bytes.length / width;
  if (at + count > out.length) throw new RangeError("decodeFloatsInto: the target is too short");
  if (width === 4) {
    new Uint8Array(out.buffer, out.byteOffset + at * 4, bytes.length).set(bytes);
    return;
  }
  const aligned = bytes.byteOffset % 2 === 0 ? bytes : new Uint8Array(bytes);
  const halves = new Uint16Array(aligned.buffer, aligned.byteOffset, count);
  const bits = new Uint32Array(out.buffer, out.byteOffset + at * 4, count);
  if (dtype === "BF16") for (let i = 0; i < count; i++) bits[i] = halves[i]! << 16;
  else {
    const table = (halfBits ??= makeHalfBits());
    for (let i = 0; i < count; i++) bits[i] = table[halves[i]!]!;
  }
}

function floatWidth(dtype: string): 2 | 4 {
  if (dtype === "F32") return 4;
  if (dtype === "F16" || dtype === "BF16") return 2;
  throw invalid(`Tensors of dtype ${quote(dtype)} cannot be read as numbers here; F32, F16 and BF16 can.`);
}

/** fp32 bit pattern of every fp16 bit pattern; 256 KiB, built on first use. */
let halfBits: Uint32Array | undefined;

function makeHalfBits(): Uint32Array {
  const table = new Uint32Array(65_536);
  for (let half = 0; half < 65_536; half++) {
    const sign = (half & 0x8000) << 16;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    let bits: number;
    if (exponent === 31) bits = 0x7f800000 | (fraction << 13);
    else if (exponent > 0) bits = ((exponent + 112) << 23) | (fraction << 13);
    else if (fraction === 0) bits = 0;
    else {
      // A subnormal half, fraction * 2^-24, is a normal fp32: shift its leading one into the implicit bit.
      const shift = Math.clz32(fraction) - 21;
      bits = ((113 - shift) << 23) | (((fraction << shift) & 1023) << 13);
    }
    table[half] = (sign | bits) >>> 0;
  }
  return table;
}
