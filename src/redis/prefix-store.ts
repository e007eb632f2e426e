import { randomUUID } from "node:crypto";
import { PrefixdError } from "../errors.ts";
import { checkPrecondition, preconditionFailed } from "../prefixes/precondition.ts";
import { RedisChunks, splitRecord, uploadError, type Extent } from "./chunks.ts";
import { accessRedis, guarded, type RedisAccess, type RedisConnection, type RedisUse } from "./connection.ts";
import { parseEntry, parseVersions, swapVersions, type Entry } from "./prefix-entry.ts";
import { RedisKeys } from "./prefix-keys.ts";
import { COMMIT_UPLOAD, DELETE_PREFIX, DELETE_USER, HELD, LIST_PREFIXES, RESTORE_VERSION } from "./prefix-scripts.ts";
import { RedisShares } from "./shares.ts";
import { RedisTrainingKeys } from "./training-keys.ts";
import { PATCH_SHARING } from "./sharing-scripts.ts";
import { listedFor, sharedPage, tooLarge, tooMany, withoutSharing } from "../prefixes/sharing.ts";
import type {
  ByteRange,
  HeldPrefixes,
  ListedPrefix,
  PrefixKey,
  PrefixMeta,
  PutOptions,
  PrefixRecord,
  PrefixStore,
  PrefixVersion,
  Precondition,
  RemovalState,
  RemovedPrefixes,
  SharingPatch,
  VersionChange,
} from "../prefixes/store.ts";
import { OPEN_TOMBSTONE_MS, TOMBSTONE_MS, userRemoved } from "../prefixes/tombstones.ts";

export type RedisStoreOptions = RedisAccess & {
  /** Prefix of all keys. Default `prefixd`. */
  readonly namespace?: string;
  /** Milliseconds until chunks of an unfinished PUT expire. Default 10 minutes. */
  readonly uploadTtlMs?: number;
  /** Milliseconds that a replaced version's chunks remain for its readers. Default 60,000. */
  readonly graceMs?: number;
  /** Bytes per Redis value, so that no single GET blocks the server. Default 512 KiB. */
  readonly chunkBytes?: number;
};

/** Attempts at putting back a version while the prefix keeps being changed. */
const RESTORE_TURNS = 64;

/** A store shared by replicas. Resolves and throws as `openRedis`. */
export async function openRedisStore(options: RedisStoreOptions): Promise<PrefixStore> {
  return new RedisStore(await accessRedis(options), options);
}

class RedisStore implements PrefixStore {
  readonly #connection: RedisConnection;
  readonly #release: () => void;
  readonly #keys: RedisKeys;
  readonly #training: RedisTrainingKeys;
  readonly #uploadTtlMs: number;
  readonly #graceMs: number;
  readonly #chunkBytes: number;
  readonly #chunks: RedisChunks;
  readonly #shares: RedisShares;
  readonly #origin = randomUUID();
  readonly #listeners = new Set<(key: PrefixKey) => void>();

  constructor({ redis, release }: RedisUse, options: RedisStoreOptions) {
    this.#connection = redis;
    this.#release = release;
    this.#keys = new RedisKeys(options.namespace ?? "prefixd");
    this.#training = new RedisTrainingKeys(options.namespace ?? "prefixd");
    this.#uploadTtlMs = options.uploadTtlMs ?? 600_000;
    this.#graceMs = options.graceMs ?? 60_000;
    this.#chunkBytes = options.chunkBytes ?? 512 * 1024;
    this.#chunks = new RedisChunks(redis.bulk, this.#keys, this.#uploadTtlMs);
    this.#shares = new RedisShares(redis.bulk, this.#keys, (key) => this.#message(key));
    redis.subscribe(this.#keys.changes, (message) => this.#heard(message));
  }

  put(record: PrefixRecord, { precondition, quota, keep = 0, claim }: PutOptions = {}): Promise<{ created: boolean }> {
    return guarded(async () => {
      const { meta } = record;
      const { max_prefixes = null, max_prefix_bytes = null } = quota ?? {};
      // Saves a pointless upload; the commit checks again.
      if (precondition !== undefined) checkPrecondition((await this.#entry(meta))?.meta.digest ?? null, precondition);
      const { plan, chunks } = splitRecord(record, this.#chunkBytes);
      const entry: Entry = { meta: withoutSharing(meta), ...plan };
      await this.#chunks.upload(meta, plan, chunks);
      const reply = await this.#connection.run(COMMIT_UPLOAD, this.#userKeys(meta.user), [
        meta.name,
        JSON.stringify(entry),
        ...conditions(precondition),
        this.#keys.chunks(meta.user),
        entry.upload,
        chunks.length,
        this.#graceMs,
        this.#keys.changes,
        this.#message(meta),
        max_prefixes ?? "",
        max_prefix_bytes ?? "",
        meta.bytes,
        meta.digest,
        keep,
        ...(claim === undefined ? [] : [this.#training.job(meta.user, claim.id), claim.holder]),
      ]);
      if (reply === 1 || reply === 0) return { created: reply === 1 };
      await this.#chunks.discard(meta, plan);
      if (reply === -1) throw preconditionFailed("The prefix has changed in the meantime.");
      if (reply === -4) throw tooMany(max_prefixes ?? 0);
      if (reply === -5) throw tooLarge(max_prefix_bytes ?? 0);
      if (reply === -6)
        throw preconditionFailed("The training job was cancelled, or another replica has taken it over.");
      throw uploadError(reply);
    });
  }

  versions(key: PrefixKey): Promise<PrefixVersion[]> {
    return guarded(async () =>
      parseVersions(await this.#connection.client.hget(this.#keys.versions(key.user), key.name)).map(
        ({ meta }) => meta,
      ),
    );
  }

  restore(key: PrefixKey, change: VersionChange, precondition?: Precondition): Promise<PrefixMeta | null> {
    return guarded(async () => {
      const { client } = this.#connection;
      const { prefixes, uploads, removed, versions, bytes } = {
        prefixes: this.#keys.prefixes(key.user),
        uploads: this.#keys.uploads(key.user),
        removed: this.#keys.removed(key.user),
        versions: this.#keys.versions(key.user),
        bytes: this.#keys.bytes(key.user),
      };
      for (let turn = 0; turn < RESTORE_TURNS; turn++) {
        const [value, listed] = await Promise.all([client.hget(prefixes, key.name), client.hget(versions, key.name)]);
        const old = value === null ? null : parseEntry(value);
        checkPrecondition(old?.meta.digest ?? null, precondition);
        if (old === null || value === null) return null;
        if (old.meta.digest === change.digest) return old.meta;
        const swap = swapVersions(value, listed, change);
        const reply = await this.#connection.run(
          RESTORE_VERSION,
          [prefixes, uploads, removed, versions, bytes],
          [
            key.name,
            value,
            listed ?? "",
            swap.current,
            swap.kept.join("\n"),
            this.#keys.chunks(key.user),
            this.#graceMs,
            this.#keys.changes,
            this.#message(key),
            ...swap.gone,
          ],
        );
        if (reply === 1) return (await this.#entry(key))?.meta ?? null;
        if (reply === -3) throw userRemoved();
      }
      throw new PrefixdError("store_unavailable", "The prefix keeps being changed; repeat the request.", {
        retryAfter: 1,
      });
    });
  }

  patchMeta(key: PrefixKey, patch: SharingPatch, precondition?: Precondition): Promise<PrefixMeta | null> {
    return guarded(async () => {
      const list = (users: readonly string[] | undefined): string => (users === undefined ? "" : JSON.stringify(users));
      const args = [
        key.name,
        ...conditions(precondition),
        patch.visibility ?? "",
        list(patch.shared_with),
        list(patch.readable_by),
        this.#keys.changes,
        this.#message(key),
        randomUUID(),
      ];
      const keys = [this.#keys.prefixes(key.user), this.#keys.unsettled(key.user)];
      const { value: reply, struck } = await this.#shares.changing(key.user, () =>
        this.#connection.bulk.run(PATCH_SHARING, keys, args),
      );
      if (reply === -1) throw preconditionFailed("The prefix has changed in the meantime.");
      await this.#connection.bulk.replicated();
      if (reply === 0) return null;
      return struck ? this.head(key) : parseEntry(String(reply)).meta;
    });
  }

  head(key: PrefixKey): Promise<PrefixMeta | null> {
    return guarded(async () => (await this.#entry(key))?.meta ?? null);
  }

  loadKv(key: PrefixKey, digest: string): Promise<Uint8Array | null> {
    return this.#load(key, digest, (entry) => entry.kv);
  }

  loadFile(key: PrefixKey, digest: string, file: string, range?: ByteRange): Promise<Uint8Array | null> {
    return this.#load(key, digest, (entry) => (Object.hasOwn(entry.files, file) ? entry.files[file]! : null), range);
  }

  list(user: string, { after, limit }: { after?: string; limit: number }): Promise<ListedPrefix[]> {
    return guarded(async () => {
      const keys = [this.#keys.prefixes(user), this.#keys.names(user)];
      const args = [after === undefined ? "-" : `(${after}`, limit];
      const page = (await this.#connection.run(LIST_PREFIXES, keys, args)) as string[];
      return page.map((value) => listedFor(user, parseEntry(value).meta));
    });
  }

  listShared(user: string, options: { after?: PrefixKey; limit: number }): Promise<ListedPrefix[]> {
    return guarded(async () => {
      await this.#shares.built();
      return sharedPage((after, limit) => this.#shares.page(user, after, limit), options);
    });
  }

  held(user: string): Promise<HeldPrefixes> {
    return guarded(async () => {
      const [prefixes, bytes] = (await this.#connection.run(
        HELD,
        [this.#keys.prefixes(user), this.#keys.bytes(user), this.#keys.versions(user)],
        [],
      )) as [number, number];
      return { prefixes, bytes };
    });
  }

  delete(key: PrefixKey, precondition?: Precondition): Promise<boolean> {
    return guarded(async () => {
      const args = [
        key.name,
        ...conditions(precondition),
        this.#keys.chunks(key.user),
        this.#keys.changes,
        this.#message(key),
        randomUUID(),
      ];
      const { value: reply } = await this.#shares.changing(key.user, () =>
        this.#connection.bulk.run(DELETE_PREFIX, this.#userKeys(key.user), args),
      );
      if (reply === -1) throw preconditionFailed("The prefix is not the one that was to be deleted.");
      await this.#connection.bulk.replicated();
      return reply === 1;
    });
  }

  deleteUser(user: string, { last = false }: { last?: boolean } = {}): Promise<RemovedPrefixes> {
    return guarded(async () => {
      const refused = last ? ["done", Math.max(TOMBSTONE_MS, this.#uploadTtlMs)] : ["open", OPEN_TOMBSTONE_MS];
      const args = [this.#keys.chunks(user), this.#keys.changes, this.#origin, user, ...refused, randomUUID()];
      await this.#shares.built();
      const { value } = await this.#shares.changing(user, () =>
        this.#connection.bulk.run(DELETE_USER, this.#userKeys(user), args),
      );
      const [prefixes, bytes] = value as [number, number];
      await this.#shares.removeGuest(user);
      await this.#connection.bulk.replicated();
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
    // Wrapped, so that registering a function twice counts twice.
    const entry = (key: PrefixKey): void => listener(key);
    this.#listeners.add(entry);
    return () => void this.#listeners.delete(entry);
  }

  ping(): Promise<void> {
    return guarded(async () => void (await this.#connection.client.exists(this.#keys.changes)));
  }

  async close(): Promise<void> {
    this.#listeners.clear();
    this.#release();
  }

  async #entry(key: PrefixKey): Promise<Entry | null> {
    const value = await this.#connection.client.hget(this.#keys.prefixes(key.user), key.name);
    return value === null ? null : parseEntry(value);
  }

  #load(
    key: PrefixKey,
    digest: string,
    where: (entry: Entry) => Extent | null,
    range?: ByteRange,
  ): Promise<Uint8Array | null> {
    return guarded(async () => {
      let last: string | undefined;
      for (;;) {
        const entry = await this.#entry(key);
        if (entry?.meta.digest !== digest) return null;
        const extent = where(entry);
        if (extent === null) return null;
        // The same version was incomplete twice, so no replacement explains the missing chunks.
        if (entry.upload === last)
          throw new PrefixdError("prefix_damaged", "Redis has lost a part of the prefix; upload it again.");
        const bytes = await this.#chunks.read(key.user, entry, extent, range);
        if (bytes !== null) return bytes;
        last = entry.upload;
      }
    });
  }

  #userKeys(user: string): string[] {
    return [
      this.#keys.prefixes(user),
      this.#keys.names(user),
      this.#keys.uploads(user),
      this.#keys.removed(user),
      this.#keys.bytes(user),
      this.#keys.unsettled(user),
      this.#keys.versions(user),
    ];
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

/** Ignores malformed messages; anyone may publish on the channel. */
function parseMessage(message: string): string[] {
  try {
    const parts: unknown = JSON.parse(message);
    return Array.isArray(parts) ? parts.map(String) : [];
  } catch {
    return [];
  }
}

function conditions({ ifMatch, ifNoneMatch }: Precondition = {}): [string, string] {
  const match = ifMatch === undefined ? "" : ifMatch === "*" ? "*" : JSON.stringify(ifMatch);
  return [match, ifNoneMatch ?? ""];
}
