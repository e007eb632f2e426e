import { createHash, randomBytes } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Gpt2Config } from "./checkpoint-config.ts";
import { readExactly, type StoredTensor } from "./checkpoint-files.ts";

const READ_BYTES = 4 << 20;

/**
 * sha256 of each tensor's bytes. Hashing takes about a second per GB, so the digests are cached in `cacheDir`, keyed by
 * what changes when the files do: path, size, times and inode.
 */
export async function tensorDigests(
  tensors: ReadonlyMap<string, StoredTensor>,
  cacheDir: string | undefined,
): Promise<Map<string, string>> {
  const entry = cacheDir && join(cacheDir, `tensor-digests-${cacheKey(tensors)}.json`);
  const cached = entry && (await readCache(entry, tensors));
  if (cached) return cached;
  const digests = new Map<string, string>();
  const buffer = new Uint8Array(READ_BYTES);
  for (const [name, { file, start, end }] of tensors) {
    const hash = createHash("sha256");
    for (let at = start; at < end; at += READ_BYTES) {
      hash.update(await readExactly(file, at, Math.min(READ_BYTES, end - at), buffer));
    }
    digests.set(name, hash.digest("hex"));
  }
  if (entry) await writeCache(entry, digests);
  return digests;
}

/**
 * sha256 in hex of everything that determines the model's numbers: the configuration and every tensor's name, dtype,
 * shape and bytes. Sharding and the `transformer.` prefix do not affect it.
 */
export function modelFingerprint(
  config: Gpt2Config,
  tensors: ReadonlyMap<string, StoredTensor>,
  digests: ReadonlyMap<string, string>,
): string {
  const { layers, heads, width, inner, positions, vocabSize, layerNormEpsilon, activation } = config;
  const { scaleAttnWeights, scaleAttnByInverseLayerIdx, tieWordEmbeddings } = config;
  const canonical = {
    format: "prefixd-gpt2-1",
    config: {
      layers,
      heads,
      width,
      inner,
      positions,
      vocabSize,
      layerNormEpsilon,
      activation,
      scaleAttnWeights,
      scaleAttnByInverseLayerIdx,
      tieWordEmbeddings,
    },
    tensors: [...tensors.keys()].sort().map((name) => {
      const tensor = tensors.get(name);
      return [name, tensor?.dtype, tensor?.shape, digests.get(name)];
    }),
  };
  return createHash("sha256").update(JSON.stringify(canonical)).digest("hex");
}

function cacheKey(tensors: ReadonlyMap<string, StoredTensor>): string {
  const hash = createHash("sha256");
  for (const [name, { file, start, end }] of tensors) {
    const { size, mtimeNs, ctimeNs, dev, ino } = file.stats;
    hash.update(`${JSON.stringify([name, start, end, file.path])} ${size} ${mtimeNs} ${ctimeNs} ${dev} ${ino}\n`);
  }
  return hash.digest("hex");
}

async function readCache(
  path: string,
  tensors: ReadonlyMap<string, StoredTensor>,
): Promise<Map<string, string> | null> {
  try {
    const digests = new Map(Object.entries(JSON.parse(await readFile(path, "utf8")) as Record<string, string>));
    const complete =
      digests.size === tensors.size &&
      [...tensors.keys()].every((name) => /^[0-9a-f]{64}$/.test(digests.get(name) ?? ""));
    return complete ? digests : null;
  } catch {
    return null;
  }
}

/** Failing to write the cache is harmless: the next start hashes again. */
async function writeCache(path: string, digests: ReadonlyMap<string, string>): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString("hex")}.tmp`;
  try {
    await mkdir(join(path, ".."), { recursive: true });
    await writeFile(temporary, JSON.stringify(Object.fromEntries(digests)));
    await rename(temporary, path);
  } catch {
    return;
  }
}
