/**
 * Prepends a checksum of key and value to stored values. LMDB has none: a bit flipped on disk would silently change a
 * user's limits, key or list of guests. Values that predate checksums pass without one.
 */
import { createHash } from "node:crypto";
import { Damage } from "./format.ts";

/** Never the first byte of JSON. */
const MARK = 1;
const SUM_BYTES = 8;
/** Bytes added to a value's content. */
export const SEAL_BYTES = 1 + SUM_BYTES;

export function seal(key: string, content: Uint8Array): Buffer {
  return Buffer.concat([Uint8Array.of(MARK), sumOf(key, content), content]);
}

/** Returns a view of the content. Throws Damage. */
export function unseal(key: string, value: Buffer): Buffer {
  const content = value.subarray(SEAL_BYTES);
  if (value[0] !== MARK || !sumOf(key, content).equals(value.subarray(1, SEAL_BYTES)))
    throw new Damage("a record is not as it was written");
  return content;
}

export function sealJson(key: string, value: unknown): Buffer {
  return seal(key, Buffer.from(JSON.stringify(value)));
}

/** Throws Damage. */
export function unsealJson(key: string, value: Buffer): unknown {
  if (value[0] === MARK) return JSON.parse(unseal(key, value).toString());
  try {
    return JSON.parse(value.toString());
  } catch {
    throw new Damage("a record is not as it was written");
  }
}

function sumOf(key: string, content: Uint8Array): Buffer {
  return createHash("sha256").update(`${key}\0`).update(content).digest().subarray(0, SUM_BYTES);
}
