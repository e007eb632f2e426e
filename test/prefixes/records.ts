import { kvElements } from "../../src/kv.ts";
import type { ModelShape } from "../../src/kv.ts";
import { prefixDigest } from "../../src/prefixes/digest.ts";
import type { PrefixKey, PrefixRecord } from "../../src/prefixes/store.ts";

export const SHAPE: ModelShape = { layers: 2, heads: 2, headDim: 4, width: 8, positions: 32, vocabSize: 64 };
export const BASE = "base-fingerprint";

/** A sound record whose content follows from `seed`. */
export async function record(
  key: PrefixKey,
  seed: number,
  options: { length?: number; shape?: ModelShape; files?: Map<string, Uint8Array> } = {},
): Promise<PrefixRecord> {
  const { length = 3, shape = SHAPE } = options;
  const kv = new Float32Array(kvElements(shape, length));
  for (let i = 0; i < kv.length; i++) kv[i] = Math.sin(seed * 31 + i);
  const bytes = new Uint8Array(kv.buffer);
  const files =
    options.files ??
    new Map([
      ["adapter_config.json", Buffer.from(`{"seed":${seed}}`)],
      ["adapter_model.safetensors", Buffer.alloc(100, seed)],
    ]);
  const now = new Date(seed * 1000).toISOString();
  return {
    kv: bytes,
    files,
    meta: {
      ...key,
      kind: "PREFIX_TUNING",
      digest: await prefixDigest(shape, length, bytes),
      length,
      bytes: bytes.length,
      base: BASE,
      // Names come from users: these have what a store's own format could trip over.
      baseName: 'C:\\models\\"gpt2"\n\0é\u{1f600}\ufffd',
      baseRevision: null,
      createdAt: now,
      updatedAt: now,
      files: Object.fromEntries([...files].map(([name, content]) => [name, content.length])),
    },
  };
}
