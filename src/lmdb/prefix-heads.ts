/**
 * What the store said of a prefix, for as long as nothing was written to its user's file. Whoever writes, in this process or in another,
 * moves the file's times; looking at them takes microseconds where asking the store's thread takes its turn on a busy machine.
 */
import { statSync, type BigIntStats } from "node:fs";
import { LRUCache } from "lru-cache";
import { keyText } from "../prefixes/name.ts";
import type { PrefixKey, PrefixMeta } from "../prefixes/store.ts";

/**
 * Milliseconds after which a write is over for certain. File times move when a write begins and by the ticks of a clock, so what is read
 * sooner after that may be from before the write, or from before another one with the same times: it is not kept.
 */
const SETTLED_MS = 1000;
const MAX_NAMES = 20_000;

/** A user's file at some moment; null: there is none, or it was being written just now. */
export type FileState = string | null;

export class KnownHeads {
  readonly #path: (user: string) => string;
  readonly #now: () => number;
  readonly #known = new LRUCache<string, { readonly file: string; readonly meta: PrefixMeta }>({ max: MAX_NAMES });

  /** @param path of a user's file; @param now milliseconds of the clock that file times are of */
  constructor(path: (user: string) => string, now: () => number = Date.now) {
    this.#path = path;
    this.#now = now;
  }

  /** The file's state, to be looked at before the store is asked. */
  fileOf(user: string): FileState {
    let stat: BigIntStats | undefined;
    try {
      stat = statSync(this.#path(user), { bigint: true, throwIfNoEntry: false });
    } catch {
      // Why it cannot be looked at is the store's to say.
      return null;
    }
    if (stat === undefined || this.#now() - Math.max(Number(stat.mtimeMs), Number(stat.ctimeMs)) < SETTLED_MS)
      return null;
    return `${stat.dev} ${stat.ino} ${stat.size} ${stat.mtimeNs} ${stat.ctimeNs}`;
  }

  /** null: the store has to be asked. */
  get(key: PrefixKey, file: FileState): PrefixMeta | null {
    const known = this.#known.get(keyText(key));
    return known !== undefined && known.file === file ? known.meta : null;
  }

  /** What the store has said; `file` is what was seen before it was asked. */
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
