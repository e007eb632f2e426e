/**
 * Registers many random prefixes directly in a store, as the server would: for benchmarks that need too many for
 * uploads.
 */
import { kvElements, type ModelShape } from "../../src/kv.ts";
import { kvBytes, prefixDigest } from "../../src/prefixes/digest.ts";
import type { PrefixStore } from "../../src/prefixes/store.ts";
import { LOCAL_USER } from "../../src/users/user-id.ts";
import { randomPrefix } from "./gpt2.ts";

/** Concurrent prefixes and bytes. */
const AT_ONCE = 50;
const BYTES_AT_ONCE = 64 << 20;

/**
 * Stores distinct prefixes of `length` virtual tokens, from `seed` and the numbers after it, as `NAME-0`, `NAME-1`, ...
 * of the local user.
 */
export async function fillStore(
  store: PrefixStore,
  { shape, fingerprint }: { shape: ModelShape; fingerprint: string },
  given: { name: string; length: number; count: number; seed?: number },
): Promise<void> {
  const { name, length, count, seed = 0 } = given;
  const now = new Date().toISOString();
  const put = async (index: number): Promise<void> => {
    const kv = kvBytes(randomPrefix(shape, length, seed + index));
    const digest = await prefixDigest(shape, length, kv);
    const meta = {
      user: LOCAL_USER,
      name: `${name}-${index}`,
      kind: "PREFIX_TUNING",
      digest,
      length,
      bytes: 4 * kvElements(shape, length),
      base: fingerprint,
      createdAt: now,
      updatedAt: now,
      files: {},
    };
    await store.put({ meta, kv, files: new Map() });
  };
  const atOnce = Math.max(1, Math.min(AT_ONCE, Math.floor(BYTES_AT_ONCE / (4 * kvElements(shape, length)))));
  for (let at = 0; at < count; at += atOnce)
    await Promise.all(Array.from({ length: Math.min(atOnce, count - at) }, (_, i) => put(at + i)));
}
