import { randomUUID } from "node:crypto";
import { PrefixdError } from "../errors.ts";
import { checkPrecondition, preconditionFailed } from "./precondition.ts";
import { RedisConnection, toStoreError } from "./redis-connection.ts";
import type { RedisConnectionOptions } from "./redis-connection.ts";
import { RedisKeys } from "./redis-keys.ts";
import { BEGIN_UPLOAD, COMMIT_UPLOAD, DELETE_PREFIX, DELETE_USER, HELD, LIST_PREFIXES, PATCH_SHARING, WRITE_CHUNK } from "./redis-scripts.ts";
import { sharingOf, tooLarge, tooMany } from "./sharing.ts";
import type { HeldPrefixes, PrefixKey, PrefixMeta, PrefixQuota, PrefixRecord, PrefixStore, Precondition, RemovalState, RemovedPrefixes, SharingPatch } from "./store.ts";
import { OPEN_TOMBSTONE_MS, TOMBSTONE_MS, userRemoved } from "./tombstones.ts";

export interface RedisStoreOptions extends RedisConnectionOptions {
  /** What all keys begin with. Default `prefixd`. */
  readonly namespace?: string;
  /** Milliseconds that chunks live which no PUT has finished. Default 10 minutes. */
  readonly uploadTtlMs?: number;
  /** Milliseconds that a replaced version's chunks live on for who is reading them. Default 60,000. */
  readonly graceMs?: number;
  /** Bytes per Redis value, so that no single GET holds up the server. Default 512 KiB. */
  readonly chunkBytes?: number;
}

/** Connects to a store shared by replicas. Resolves after `commandTimeoutMs` at the latest, connected or not. */
export async function openRedisStore(options: RedisStoreOptions): Promise<PrefixStore> {
  const connection = new RedisConnection(options);
  await connection.ready(options.commandTimeoutMs ?? 2000);
  return new RedisStore(connection, options);
}

/** Where a part of the record lies: its first chunk and its size in bytes. */
type Extent = readonly [first: number, bytes: number];

/** The pointer to the current version. */
interface Entry {
  readonly meta: PrefixMeta;
  readonly upload: string;
  readonly chunks: number;
  readonly chunkBytes: number;
  readonly kv: Extent;
  readonly files: Readonly<Record<string, Extent>>;
}

/** Chunks of one record that travel at a time. */
const IN_FLIGHT = 4;
const MAX_PAGE = 1000;

class RedisStore implements PrefixStore {
  readonly #connection: RedisConnection;
  readonly #keys: RedisKeys;
  readonly #uploadTtlMs: number;
  readonly #graceMs: number;
  readonly #chunkBytes: number;
  readonly #origin = randomUUID();
  readonly #listeners = new Set<(key: PrefixKey) => void>();

  constructor(connection: RedisConnection, options: RedisStoreOptions) {
    this.#connection = connection;
    this.#keys = new RedisKeys(options.namespace ?? "prefixd");
    this.#uploadTtlMs = options.uploadTtlMs ?? 600_000;
    this.#graceMs = options.graceMs ?? 60_000;
    this.#chunkBytes = options.chunkBytes ?? 512 * 1024;
    connection.subscribe(this.#keys.changes, (message) => this.#heard(message));
  }

  put(record: PrefixRecord, precondition?: Precondition, quota?: PrefixQuota): Promise<{ created: boolean }> {
    return guarded(async () => {
      const { meta } = record;
      const { max_prefixes = null, max_prefix_bytes = null } = quota ?? {};
      // Spares the upload where the answer is known; the commit asks again.
      if (precondition !== undefined) checkPrecondition((await this.#entry(meta))?.meta.digest ?? null, precondition);
      const { entry, chunks } = this.#split(record);
      await this.#upload(meta, entry.upload, chunks);
      const reply = await this.#connection.run(COMMIT_UPLOAD, this.#userKeys(meta.user), [
        meta.name, JSON.stringify(entry), ...conditions(precondition), this.#keys.chunks(meta.user), entry.upload,
        chunks.length, this.#graceMs, this.#keys.changes, this.#message(meta),
        max_prefixes ?? "", max_prefix_bytes ?? "", meta.bytes,
      ]);
      if (reply === 1 || reply === 0) return { created: reply === 1 };
      await this.#discard(meta, entry.upload, chunks.length);
      if (reply === -1) throw preconditionFailed("The prefix has changed in the meantime.");
      if (reply === -4) throw tooMany(max_prefixes ?? 0);
      if (reply === -5) throw tooLarge(max_prefix_bytes ?? 0);
      throw uploadError(reply);
    });
  }

  patchMeta(key: PrefixKey, patch: SharingPatch, precondition?: Precondition): Promise<PrefixMeta | null> {
    return guarded(async () => {
      const list = patch.shared_with === undefined ? "" : JSON.stringify(patch.shared_with);
      const args = [key.name, ...conditions(precondition), patch.visibility ?? "", list, this.#keys.changes, this.#message(key)];
      const reply = await this.#connection.run(PATCH_SHARING, [this.#keys.prefixes(key.user)], args);
      if (reply === -1) throw preconditionFailed("The prefix has changed in the meantime.");
      return reply === 0 ? null : parseEntry(String(reply)).meta;
    });
  }

  head(key: PrefixKey): Promise<PrefixMeta | null> {
    return guarded(async () => (await this.#entry(key))?.meta ?? null);
  }

  loadKv(key: PrefixKey, digest: string): Promise<Uint8Array | null> {
    return this.#load(key, digest, (entry) => entry.kv);
  }

  loadFile(key: PrefixKey, digest: string, file: string): Promise<Uint8Array | null> {
    return this.#load(key, digest, (entry) => (Object.hasOwn(entry.files, file) ? entry.files[file]! : null));
  }

  list(user: string, options: { after?: string; limit: number }): Promise<PrefixMeta[]> {
    return guarded(async () => {
      const metas: PrefixMeta[] = [];
      let after = options.after;
      while (metas.length < options.limit) {
        const wanted = Math.min(options.limit - metas.length, MAX_PAGE);
        const keys = [this.#keys.prefixes(user), this.#keys.names(user)];
        const page = (await this.#connection.run(LIST_PREFIXES, keys, [after === undefined ? "-" : `(${after}`, wanted])) as string[];
        metas.push(...page.map((value) => parseEntry(value).meta));
        if (page.length < wanted) break;
        after = metas.at(-1)!.name;
      }
      return metas;
    });
  }

  held(user: string): Promise<HeldPrefixes> {
    return guarded(async () => {
      const [prefixes, bytes] = (await this.#connection.run(HELD, [this.#keys.prefixes(user), this.#keys.bytes(user)], [])) as [number, number];
      return { prefixes, bytes };
    });
  }

  delete(key: PrefixKey, precondition?: Precondition): Promise<boolean> {
    return guarded(async () => {
      const args = [key.name, ...conditions(precondition), this.#keys.chunks(key.user), this.#keys.changes, this.#message(key)];
      const reply = await this.#connection.run(DELETE_PREFIX, this.#userKeys(key.user), args);
      if (reply === -1) throw preconditionFailed("The prefix is not the one that was to be deleted.");
      return reply === 1;
    });
  }

  deleteUser(user: string, { last = false }: { last?: boolean } = {}): Promise<RemovedPrefixes> {
    return guarded(async () => {
      const refused = last ? ["done", Math.max(TOMBSTONE_MS, this.#uploadTtlMs)] : ["open", OPEN_TOMBSTONE_MS];
      const args = [this.#keys.chunks(user), this.#keys.changes, this.#origin, user, ...refused];
      const [prefixes, bytes] = (await this.#connection.run(DELETE_USER, this.#userKeys(user), args)) as [number, number];
      return { prefixes, bytes };
    });
  }

  removalState(user: string): Promise<RemovalState> {
    return guarded(async () => (await this.#connection.client.get(this.#keys.removed(user))) as RemovalState);
  }

  readmitUser(user: string): Promise<void> {
    return guarded(async () => void (await this.#connection.client.del(this.#keys.removed(user))));
  }

  onChange(listener: (key: PrefixKey) => void): () => void {
    // A wrapper, so that registering a function twice counts twice.
    const entry = (key: PrefixKey): void => listener(key);
    this.#listeners.add(entry);
    return () => void this.#listeners.delete(entry);
  }

  ping(): Promise<void> {
    return guarded(async () => void (await this.#connection.client.exists(this.#keys.changes)));
  }

  async close(): Promise<void> {
    this.#listeners.clear();
    this.#connection.close();
  }

  async #entry(key: PrefixKey): Promise<Entry | null> {
    const value = await this.#connection.client.hget(this.#keys.prefixes(key.user), key.name);
    return value === null ? null : parseEntry(value);
  }

  #load(key: PrefixKey, digest: string, where: (entry: Entry) => Extent | null): Promise<Uint8Array | null> {
    return guarded(async () => {
      let last: string | undefined;
      for (;;) {
        const entry = await this.#entry(key);
        if (entry?.meta.digest !== digest) return null;
        const extent = where(entry);
        if (extent === null) return null;
        // The same version twice and incomplete: nobody replaced it in between.
        if (entry.upload === last) throw new PrefixdError("prefix_damaged", "Redis has lost a part of the prefix; upload it again.");
        const bytes = await this.#read(key.user, entry, extent);
        if (bytes !== null) return bytes;
        last = entry.upload;
      }
    });
  }

  /** null: a chunk is missing or has another size. */
  async #read(user: string, { upload, chunkBytes }: Entry, [first, size]: Extent): Promise<Uint8Array | null> {
    const bytes = new Uint8Array(size);
    let whole = true;
    await inParallel(chunkCount(size, chunkBytes), async (i) => {
      const chunk = await this.#connection.client.getBuffer(this.#keys.chunk(user, upload, first + i));
      const at = i * chunkBytes;
      if (chunk?.length === Math.min(chunkBytes, size - at)) bytes.set(chunk, at);
      else whole = false;
    });
    return whole ? bytes : null;
  }

  #split(record: PrefixRecord): { entry: Entry; chunks: Uint8Array[] } {
    const chunkBytes = this.#chunkBytes;
    const chunks: Uint8Array[] = [];
    const add = (bytes: Uint8Array): Extent => {
      const first = chunks.length;
      for (let i = 0; i < chunkCount(bytes.length, chunkBytes); i++) chunks.push(bytes.subarray(i * chunkBytes, (i + 1) * chunkBytes));
      return [first, bytes.length];
    };
    const kv = add(record.kv);
    const files = Object.fromEntries([...record.files].map(([name, bytes]) => [name, add(bytes)]));
    const meta = { ...record.meta, visibility: undefined, shared_with: undefined };
    return { entry: { meta, upload: randomUUID(), chunks: chunks.length, chunkBytes, kv, files }, chunks };
  }

  async #upload(key: PrefixKey, upload: string, chunks: readonly Uint8Array[]): Promise<void> {
    const guards = [this.#keys.uploads(key.user), this.#keys.removed(key.user)];
    const begun = await this.#connection.run(BEGIN_UPLOAD, guards, [upload, chunks.length, key.name, this.#uploadTtlMs]);
    if (begun !== 1) throw uploadError(begun);
    try {
      await inParallel(chunks.length, async (i) => {
        const { buffer, byteOffset, byteLength } = chunks[i]!;
        const args = [`new ${upload} ${chunks.length} ${key.name}`, Buffer.from(buffer, byteOffset, byteLength), this.#uploadTtlMs];
        const written = await this.#connection.run(WRITE_CHUNK, [...guards, this.#keys.chunk(key.user, upload, i)], args);
        if (written !== 1) throw uploadError(written);
      });
    } catch (error) {
      await this.#discard(key, upload, chunks.length);
      throw error;
    }
  }

  /** Gives the memory back at once; where that fails, the chunks expire. */
  async #discard(key: PrefixKey, upload: string, chunks: number): Promise<void> {
    const names = Array.from({ length: chunks }, (_, i) => this.#keys.chunk(key.user, upload, i));
    await this.#connection.client.unlink(...names).catch(() => {});
    await this.#connection.client.zrem(this.#keys.uploads(key.user), `new ${upload} ${chunks} ${key.name}`).catch(() => {});
  }

  #userKeys(user: string): string[] {
    return [this.#keys.prefixes(user), this.#keys.names(user), this.#keys.uploads(user), this.#keys.removed(user), this.#keys.bytes(user)];
  }

  #message(key: PrefixKey): string {
    return JSON.stringify([this.#origin, key.user, key.name]);
  }

  #heard(message: string): void {
    const [origin, user, name] = parseMessage(message);
    if (origin === this.#origin || user === undefined || name === undefined) return;
    for (const listener of this.#listeners) listener({ user, name });
  }
}

/** What a script that refuses to go on with an upload has answered. */
function uploadError(reply: unknown): PrefixdError {
  if (reply === -3) return userRemoved();
  return new PrefixdError("store_unavailable", "The upload's data was removed from Redis before it was complete.", { retryAfter: 1 });
}

/** An entry's value: its JSON and, once it has been shared, a line each for the visibility and the list of users. */
function parseEntry(value: string): Entry {
  const [json = "", visibility = "", list = ""] = value.split("\n");
  const entry = JSON.parse(json) as Entry;
  const sharing = sharingOf({
    ...(visibility === "" ? {} : { visibility: visibility === "shared" ? ("shared" as const) : ("private" as const) }),
    ...(list === "" ? {} : { shared_with: JSON.parse(list) as string[] }),
  });
  return { ...entry, meta: { ...entry.meta, ...sharing } };
}

/** A stranger's message on the channel is nothing to fail for. */
function parseMessage(message: string): string[] {
  try {
    const parts: unknown = JSON.parse(message);
    return Array.isArray(parts) ? parts.map(String) : [];
  } catch {
    return [];
  }
}

async function guarded<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw toStoreError(error);
  }
}

function conditions({ ifMatch, ifNoneMatch }: Precondition = {}): [string, string] {
  const match = ifMatch === undefined ? "" : ifMatch === "*" ? "*" : JSON.stringify(ifMatch);
  return [match, ifNoneMatch ?? ""];
}

/** An empty part has one empty chunk: that it is there can be checked too. */
function chunkCount(bytes: number, chunkBytes: number): number {
  return Math.max(1, Math.ceil(bytes / chunkBytes));
}

/** Runs `work(0..count-1)`, few at a time. After a failure no new ones start, and it is thrown when the running ones have ended. */
async function inParallel(count: number, work: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  let failed = false;
  const worker = async (): Promise<void> => {
    try {
      while (next < count && !failed) await work(next++);
    } catch (error) {
      failed = true;
      throw error;
    }
  };
  const results = await Promise.allSettled(Array.from({ length: Math.min(IN_FLIGHT, count) }, worker));
  const failure = results.find((result) => result.status === "rejected");
  if (failure !== undefined) throw failure.reason;
}
