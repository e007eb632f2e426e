import { createHash } from "node:crypto";
import { endianness } from "node:os";
import { setImmediate as turn } from "node:timers/promises";
import type { KvTensor, ModelShape } from "../kv.ts";

const FORMAT_VERSION = 1;
/** Bytes hashed per turn of the event loop: a few milliseconds. */
const SLICE_BYTES = 4 << 20;

if (endianness() !== "LE") throw new Error("prefixd runs on little-endian machines only");

/**
 * sha256 in hex over a prefix's canonical bytes: "prefixd-kv", NUL, five uint32 (format version, layers, heads, length,
 * headDim), then the fp32 values `[layers, 2, heads, length, headDim]`, all little-endian.
 */
export async function prefixDigest(shape: ModelShape, length: number, kv: Uint8Array): Promise<string> {
  const hash = createHash("sha256").update("prefixd-kv\0");
  hash.update(new Uint8Array(Uint32Array.of(FORMAT_VERSION, shape.layers, shape.heads, length, shape.headDim).buffer));
  for (let at = 0; at < kv.length; at += SLICE_BYTES) {
    if (at > 0) await turn();
    hash.update(kv.subarray(at, at + SLICE_BYTES));
  }
  return hash.digest("hex");
}

/** A tensor's bytes, without copying. */
export function kvBytes(kv: KvTensor): Uint8Array {
  return new Uint8Array(kv.data.buffer, kv.data.byteOffset, kv.data.byteLength);
}

/** A tensor from a store's bytes; copied only if they do not fill an aligned buffer of their own. */
export function kvFromBytes(length: number, bytes: Uint8Array): KvTensor {
  const own = bytes.byteOffset === 0 && bytes.byteLength === bytes.buffer.byteLength ? bytes : new Uint8Array(bytes);
  return { length, data: new Float32Array(own.buffer as ArrayBuffer) };
}

/** Index of the first NaN or infinity; -1 if all values are finite. */
export function firstNotFinite(data: Float32Array): number {
  // A NaN or infinity turns a sum of `v * 0` into NaN; one comparison per block keeps the common case fast.
  for (let start = 0; start < data.length; start += 4096) {
    const end = Math.min(start + 4096, data.length);
    let sum = 0;
    for (let i = start; i < end; i++) sum += data[i]! * 0;
    if (sum === 0) continue;
    for (let i = start; i < end; i++) if (!Number.isFinite(data[i]!)) return i;
  }
  return -1;
}
