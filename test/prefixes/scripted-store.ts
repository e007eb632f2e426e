import { PrefixdError } from "../../src/errors.ts";
import { keyText } from "../../src/prefixes/name.ts";
import type {
  HeldPrefixes,
  ListedPrefix,
  PrefixKey,
  PrefixMeta,
  PrefixRecord,
  PrefixStore,
  PrefixVersion,
  RemovalState,
  RemovedPrefixes,
} from "../../src/prefixes/store.ts";

/** A store in memory that counts, waits and fails as a test wants. */
export class ScriptedStore implements PrefixStore {
  readonly records = new Map<string, PrefixRecord>();
  readonly listeners = new Set<(key: PrefixKey) => void>();
  heads = 0;
  loads = 0;
  /** Every call fails with store_unavailable. */
  away = false;
  /** Awaited by every read after it has looked at the data. */
  delay: () => Promise<void> = () => Promise.resolve();

  async put(record: PrefixRecord): Promise<{ created: boolean }> {
    this.#check();
    const created = !this.records.has(keyText(record.meta));
    this.records.set(keyText(record.meta), record);
    return { created };
  }

  async versions(): Promise<PrefixVersion[]> {
    return [];
  }

  async restore(): Promise<PrefixMeta | null> {
    return null;
  }

  async patchMeta(): Promise<PrefixMeta | null> {
    return null;
  }

  async head(key: PrefixKey): Promise<PrefixMeta | null> {
    this.heads++;
    this.#check();
    const meta = this.records.get(keyText(key))?.meta ?? null;
    await this.delay();
    this.#check();
    return meta;
  }

  async loadKv(key: PrefixKey, digest: string): Promise<Uint8Array | null> {
    this.loads++;
    this.#check();
    await this.delay();
    const record = this.records.get(keyText(key));
    return record?.meta.digest === digest ? new Uint8Array(record.kv) : null;
  }

  async loadFile(): Promise<Uint8Array | null> {
    return null;
  }

  async list(): Promise<ListedPrefix[]> {
    return [];
  }

  async listShared(): Promise<ListedPrefix[]> {
    return [];
  }

  async held(): Promise<HeldPrefixes> {
    return { prefixes: 0, bytes: 0 };
  }

  async delete(key: PrefixKey): Promise<boolean> {
    return this.records.delete(keyText(key));
  }

  async deleteUser(): Promise<RemovedPrefixes> {
    return { prefixes: 0, bytes: 0 };
  }

  async removalState(): Promise<RemovalState> {
    return null;
  }

  async readmitUser(): Promise<void> {}

  onChange(listener: (key: PrefixKey) => void): () => void {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }

  async ping(): Promise<void> {
    this.#check();
  }

  async close(): Promise<void> {}

  #check(): void {
    if (this.away) throw new PrefixdError("store_unavailable", "away", { retryAfter: 2 });
  }
}
