/**
 * Caches the store's answers on prefixes while the user's file is unchanged. Any writer, in this process or another,
 * changes the file's times. Checking them takes microseconds, where a call to the store's thread waits its turn on a
 * busy machine.
 */
import { statSync, type BigIntStats } from "node:fs";
import { LRUCache } from "lru-cache";
import { keyText } from "../prefixes/name.ts";
import type { PrefixKey, PrefixMeta } from "../prefixes/store.ts";

/**
 * Milliseconds after which a write is certainly over. File times change when a write begins, and by clock ticks, so an
 * answer read sooner may predate the write, or another write with the same times: it is not cached.
 */
const SETTLED_MS = 1000;
const MAX_NAMES = 20_000;

/** A user's file at some moment; null if absent or just being written. */
export type FileState = string | null;

export class KnownHeads {
  readonly #path: (user: string) => string;
  readonly #now: () => number;
  readonly #known = new LRUCache<string, { readonly file: string; readonly meta: PrefixMeta }>({ max: MAX_NAMES });

  /**
   * @param path the path of a user's file
   * @param now the clock of file times, in milliseconds
   */
  constructor(path: (user: string) => string, now: () => number = Date.now) {
    this.#path = path;
    this.#now = now;
  }

  /** The file's state; read it before asking the store. */
  fileOf(user: string): FileState {
    let stat: BigIntStats | undefined;
    try {
      stat = statSync(this.#path(user), { bigint: true, throwIfNoEntry: false });
    } catch {
      // The store reports why it is inaccessible.
      return null;
    }
    if (stat === undefined || this.#now() - Math.max(Number(stat.mtimeMs), Number(stat.ctimeMs)) < SETTLED_MS)
      return null;
    return `${stat.dev} ${stat.ino} ${stat.size} ${stat.mtimeNs} ${stat.ctimeNs}`;
  }

  /** null if the store must be asked. */
  get(key: PrefixKey, file: FileState): PrefixMeta | null {
    const known = this.#known.get(keyText(key));
    return known !== undefined && known.file === file ? known.meta : null;
  }

  /** Caches the store's answer; `file` is the state seen before asking. */
  keep(key: PrefixKey, file: FileState, meta: PrefixMeta | null): void {
    if (meta !== null && file !== null && this.fileOf(key.user) === file) this.#known.set(keyText(key), { file, meta });
    else this.#known.delete(keyText(key));
  }

  forgetUser(user: string): void {
    const start = keyText({ user, name: "" });
    for (const name of [...this.#known.keys()]) if (name.startsWith(start)) this.#known.delete(name);
  }

  forgetAll(): void {
    this.#known.clear();
  }
}
