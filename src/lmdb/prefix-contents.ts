import type { ContentsCheck } from "./check.ts";
import { Damage } from "./format.ts";
import { SEAL_BYTES, unsealJson } from "./sealed.ts";
import { keyText } from "../prefixes/name.ts";
import type { HeldPrefixes, PrefixMeta, PrefixVersion } from "../prefixes/store.ts";

/** A record with the place of its parts. */
export interface StoredMeta extends PrefixMeta {
  readonly slot?: number;
}
export interface StoredVersion extends PrefixVersion {
  readonly slot?: number;
}

/** Names of an environment's entries: `meta` has user/name, `blobs` has each prefix's tensors and files. */
export const kvKey = (key: string): string => `${key}/kv`;
/** Base of the names of a version's parts; versions from before there were several have slot 0. */
export const partsKey = (key: string, { slot = 0 }: { readonly slot?: number }): string =>
  slot === 0 ? key : `${key}/v${slot}`;
const VERSIONS = "versions/";
/** In `info`: the prefix's earlier versions, a JSON list. */
export const versionsKey = (key: string): string => VERSIONS + key;
export const fileKey = (key: string, file: string): string => `${key}/file/${encodeURIComponent(file)}`;

/**
 * Checks that each record is stored under its own name with all its parts in their sizes, and that there is nothing
 * else; otherwise a prefix could be missing, or mistaken for another.
 */
export class PrefixContents implements ContentsCheck {
  /** Bytes of the parts; for files without the checksum. */
  readonly #expected = new Map<string, number>();
  readonly #found = new Map<string, number>();
  readonly #info = new Map<string, string>();
  readonly #held = { prefixes: 0, bytes: 0 };

  entry(tree: string, key: string, size: number, read: () => Buffer): void {
    if (tree === "blobs") this.#found.set(key, size);
    else if (tree === "info" && key.startsWith(VERSIONS)) this.#versions(key, read());
    else if (tree === "info") this.#info.set(key, read().toString());
    else if (tree === "meta") this.#prefix(key, read());
    else throw new Damage("it has a table of no known name");
  }

  end(): void {
    const sound = [...this.#expected].every(([key, bytes]) => {
      const found = this.#found.get(key);
      return found === bytes || (found === bytes + SEAL_BYTES && key.includes("/file/"));
    });
    if (!sound || this.#found.size !== this.#expected.size)
      throw new Damage("its prefixes and their parts do not belong together");
    const total = [...this.#expected.values()].reduce((sum, bytes) => sum + bytes, 0);
    const { prefixes, bytes } = JSON.parse(this.#info.get("held") ?? JSON.stringify(this.#held)) as HeldPrefixes;
    if (
      prefixes !== this.#held.prefixes ||
      bytes !== this.#held.bytes ||
      Number(this.#info.get("bytes") ?? 0) !== total
    )
      throw new Damage("it does not hold what it says that it holds");
  }

  #prefix(key: string, value: Buffer): void {
    const meta = unsealJson(key, value) as StoredMeta;
    if (keyText(meta) !== key) throw new Damage("a prefix lies under another name");
    this.#held.prefixes++;
    this.#parts(key, meta);
  }

  #versions(key: string, value: Buffer): void {
    const prefix = key.slice(VERSIONS.length);
    for (const version of unsealJson(key, value) as StoredVersion[]) {
      if (keyText(version) !== prefix) throw new Damage("a version lies under another name");
      this.#parts(prefix, version);
    }
  }

  #parts(key: string, version: StoredVersion): void {
    const base = partsKey(key, version);
    this.#held.bytes += version.bytes;
    this.#expected.set(kvKey(base), version.bytes);
    for (const [file, bytes] of Object.entries(version.files)) this.#expected.set(fileKey(base, file), bytes);
  }
}
