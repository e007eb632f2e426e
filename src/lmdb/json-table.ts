import type { Database, RangeOptions, RootDatabase } from "lmdb";
import { sealJson, unsealJson } from "./sealed.ts";

/**
 * A named LMDB database of JSON values, each with a checksum. Reading a value that was changed on disk throws Damage.
 */
export class JsonTable<V> {
  readonly #db: Database<Buffer, string>;

  constructor(root: RootDatabase<Buffer, string>, name: string) {
    this.#db = root.openDB<Buffer, string>({ name, encoding: "binary" });
  }

  get(key: string): V | undefined {
    const value = this.#db.getBinary(key);
    return value === undefined ? undefined : (unsealJson(key, value) as V);
  }

  put(key: string, value: V): void {
    this.#db.putSync(key, sealJson(key, value));
  }

  /** False if the key does not exist. */
  remove(key: string): boolean {
    return this.#db.removeSync(key);
  }

  *entries(range: RangeOptions = {}): Generator<{ key: string; value: V }> {
    for (const { key, value } of this.#db.getRange(range)) yield { key, value: unsealJson(key, value) as V };
  }

  *keys(range: RangeOptions = {}): Generator<string> {
    yield* this.#db.getKeys(range);
  }
}
