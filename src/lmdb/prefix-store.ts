import { setImmediate as nextTurn } from "node:timers/promises";
import { WorkerCalls } from "./worker-calls.ts";
import { userFile } from "./prefix-files.ts";
import { KnownHeads } from "./prefix-heads.ts";
import type { LmdbOptions, LmdbTables } from "./prefix-tables.ts";
import { mayUse, sharedPage, withoutUsers } from "../prefixes/sharing.ts";
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
import { Tombstones } from "../prefixes/tombstones.ts";

export type { LmdbOptions } from "./prefix-tables.ts";

/** Shared prefixes listed per call, during which other calls wait: as many users' files may have to be opened. */
const SHARED_AT_A_TIME = 64;

/** Copying this much takes about a millisecond. */
const SLICE_BYTES = 2 << 20;

/**
 * Opens (or creates) the embedded store in a folder. Confirmed PUTs are on disk. Other processes may use the folder at
 * the same time, but are not told of changes. Throws `store_unavailable`, with the reason as `cause`, if it cannot be
 * opened.
 */
export async function openLmdbStore(options: LmdbOptions): Promise<PrefixStore> {
  const store = new LmdbStore(options);
  await store.ping();
  return store;
}

class LmdbStore implements PrefixStore {
  readonly #tables: WorkerCalls<LmdbTables>;
  readonly #removed = new Tombstones();
  readonly #heads: KnownHeads;

  constructor(options: LmdbOptions) {
    this.#tables = new WorkerCalls(new URL("./prefix-worker", import.meta.url).href, options, "prefix store");
    this.#heads = new KnownHeads((user) => userFile(options.dir, user));
  }

  async put(record: PrefixRecord, { precondition, quota, keep = 0 }: PutOptions = {}): Promise<{ created: boolean }> {
    const { meta } = record;
    this.#removed.check(meta.user);
    const kv = await shared(record.kv);
    const files = new Map<string, Uint8Array>();
    for (const [name, bytes] of record.files) files.set(name, await shared(bytes));
    // The user may have been removed meanwhile.
    this.#removed.check(meta.user);
    return this.#tables.call("put", { meta, kv, files }, { precondition, quota, keep });
  }

  versions(key: PrefixKey): Promise<PrefixVersion[]> {
    return this.#tables.call("versions", plain(key));
  }

  restore(key: PrefixKey, change: VersionChange, precondition?: Precondition): Promise<PrefixMeta | null> {
    return this.#tables.call("restore", plain(key), change, precondition);
  }

  patchMeta(key: PrefixKey, patch: SharingPatch, precondition?: Precondition): Promise<PrefixMeta | null> {
    // Calls run in order, so a user whose removal comes later is struck off then.
    const admitted = withoutUsers(patch, (user) => this.#removed.state(user) !== null);
    return this.#tables.call("patchMeta", plain(key), admitted, precondition);
  }

  async head(key: PrefixKey, asker = key.user): Promise<PrefixMeta | null> {
    const file = this.#heads.fileOf(key.user);
    const known = this.#heads.get(key, file);
    // Missing prefixes are asked of the thread each time, so inaccessible ones must be too: timing must not tell them
    // apart.
    if (known !== null && mayUse(known, asker)) return known;
    const meta = await this.#tables.call("head", plain(key), asker);
    if (meta !== null || asker === key.user) this.#heads.keep(key, file, meta);
    return meta;
  }

  loadKv(key: PrefixKey, digest: string): Promise<Uint8Array | null> {
    return this.#tables.call("loadKv", plain(key), digest);
  }

  loadFile(key: PrefixKey, digest: string, file: string, range?: ByteRange): Promise<Uint8Array | null> {
    return this.#tables.call("loadFile", plain(key), digest, file, range);
  }

  list(user: string, options: { after?: string; limit: number }): Promise<ListedPrefix[]> {
    return this.#tables.call("list", user, options);
  }

  listShared(user: string, options: { after?: PrefixKey; limit: number }): Promise<ListedPrefix[]> {
    return sharedPage(
      (after, limit) => this.#tables.call("listShared", user, after, Math.min(limit, SHARED_AT_A_TIME)),
      options,
    );
  }

  held(user: string): Promise<HeldPrefixes> {
    return this.#tables.call("held", user);
  }

  delete(key: PrefixKey, precondition?: Precondition): Promise<boolean> {
    return this.#tables.call("delete", plain(key), precondition);
  }

  /** Calls run in order: the removal deletes earlier PUTs, later ones are refused here. */
  deleteUser(user: string, { last = false }: { last?: boolean } = {}): Promise<RemovedPrefixes> {
    this.#removed.add(user, last ? "done" : "open");
    this.#heads.forgetUser(user);
    return this.#tables.call("deleteUser", user);
  }

  async removalState(user: string): Promise<RemovalState> {
    return this.#removed.state(user);
  }

  async readmitUser(user: string): Promise<void> {
    this.#removed.delete(user);
  }

  onChange(): () => void {
    return () => {};
  }

  ping(): Promise<void> {
    return this.#tables.call("ping");
  }

  close(): Promise<void> {
    const closed = this.#tables.close();
    this.#heads.forgetAll();
    return closed;
  }
}

/**
 * Copies the bytes to shared memory, which the thread reads in place. The copy is made in slices with turns of the
 * event loop in between; posting the bytes would copy them at once, 150 MB in a tenth of a second.
 */
async function shared(bytes: Uint8Array): Promise<Uint8Array> {
  const copy = new Uint8Array(new SharedArrayBuffer(bytes.length));
  for (let at = 0; at < bytes.length; at += SLICE_BYTES) {
    if (at > 0) await nextTurn();
    copy.set(bytes.subarray(at, at + SLICE_BYTES), at);
  }
  return copy;
}

function plain({ user, name }: PrefixKey): PrefixKey {
  return { user, name };
}
