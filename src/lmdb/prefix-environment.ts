import type { Database, RootDatabase } from "lmdb";
import { PrefixdError } from "../errors.ts";
import { isDiskFull, makeLmdb, mustHaveRoom, openLmdb, OpenFile, type FileState } from "./file.ts";
import { seal, SEAL_BYTES, sealJson, unseal, unsealJson } from "./sealed.ts";
import {
  fileKey,
  kvKey,
  partsKey,
  PrefixContents,
  versionsKey,
  type StoredMeta,
  type StoredVersion,
} from "./prefix-contents.ts";
import { keyText } from "../prefixes/name.ts";
import { checkPrecondition } from "../prefixes/precondition.ts";
import {
  checkQuota,
  guestsOf,
  listedFor,
  patchSharing,
  sharingOf,
  withoutSharing,
  withoutUsers,
} from "../prefixes/sharing.ts";
import type {
  ByteRange,
  HeldPrefixes,
  ListedPrefix,
  PrefixKey,
  PrefixMeta,
  PutOptions,
  PrefixRecord,
  PrefixVersion,
  Precondition,
  SharingPatch,
  VersionChange,
} from "../prefixes/store.ts";
import { asCurrent, roomForVersions, versionNotFound, versionsToKeep } from "../prefixes/versions.ts";

const FORMAT = "1";

/**
 * One user's prefixes: an LMDB environment in its own folder, so that removing the user can destroy the file. Every
 * call is synchronous and blocks on the disk, so it runs on its own thread. Three databases, so that listing never
 * reads tensors: `meta` (user/name -> JSON), `blobs` (user/name/part, or user/name/vSLOT/part, -> bytes; files with a
 * checksum, tensors have their digest) and `info` (format, bytes stored, totals, each prefix's earlier versions).
 */
export class LmdbEnvironment {
  readonly #dir: string;
  readonly #file: OpenFile;
  readonly #root: RootDatabase<Buffer, string>;
  readonly #meta: Database<Buffer, string>;
  readonly #blobs: Database<Buffer, string>;
  readonly #info: Database<Buffer, string>;

  /**
   * Throws DamagedFileError if the file is missing or cannot be what was written.
   * @param options `make`: create it in a new folder; `checked`: the file has not changed since it passed its check
   */
  constructor(dir: string, { make = false, checked = false }: { make?: boolean; checked?: boolean } = {}) {
    this.#dir = dir;
    this.#root = make
      ? makeLmdb(dir, { maxDbs: 3 })
      : openLmdb(dir, { maxDbs: 3, contents: () => new PrefixContents(), checked });
    try {
      this.#file = new OpenFile(dir);
      this.#meta = this.#root.openDB({ name: "meta", encoding: "binary" });
      this.#blobs = this.#root.openDB({ name: "blobs", encoding: "binary" });
      this.#info = this.#root.openDB({ name: "info", encoding: "binary" });
      const format = this.#info.getBinary("format")?.toString() ?? null;
      if (format === null) this.#root.transactionSync(() => this.#putInfo("format", FORMAT));
      else if (format !== FORMAT)
        throw new Error(`the folder holds prefixes in format ${format}; this version reads format ${FORMAT}`);
    } catch (error) {
      void this.#root.close();
      throw error;
    }
  }

  put(record: PrefixRecord, { precondition, quota, keep = 0 }: PutOptions): { created: boolean } {
    const { meta } = record;
    const key = keyText(meta);
    return this.#write(storedBytes(meta), () => {
      const old = this.#read(key);
      checkPrecondition(old?.digest ?? null, precondition);
      const earlier = this.#earlier(key);
      const others = without(this.#held(), old, earlier);
      checkQuota(quota, others, meta.bytes, old?.bytes ?? null);
      const room = roomForVersions(quota?.max_prefix_bytes, others.bytes, meta.bytes);
      const kept = versionsToKeep<StoredVersion>(old, earlier, { digest: meta.digest, keep, room });
      const slot = 1 + Math.max(-1, ...[...earlier, ...(old === null ? [] : [old])].map(({ slot = 0 }) => slot));
      const base = partsKey(key, { slot });
      // Copy it: the tensors arrive in memory shared by two threads, which would crash LMDB's binding.
      this.#blobs.putSync(kvKey(base), Buffer.from(record.kv));
      for (const [file, content] of record.files)
        this.#blobs.putSync(fileKey(base, file), seal(fileKey(base, file), content));
      const current = { ...withoutSharing(meta), ...sharingOf(old), ...(slot === 0 ? {} : { slot }) };
      this.#replace(key, { old, earlier, others }, current, kept);
      return { created: old === null };
    });
  }

  /** Earlier versions, the one replaced last first. */
  versions(key: PrefixKey): PrefixVersion[] {
    this.#root.resetReadTxn();
    return this.#earlier(keyText(key)).map(withoutSlot);
  }

  /** Returns null if there is no such prefix. */
  restore(key: PrefixKey, change: VersionChange, precondition: Precondition | undefined): PrefixMeta | null {
    return this.#write(0, () => {
      const text = keyText(key);
      const old = this.#read(text);
      checkPrecondition(old?.digest ?? null, precondition);
      if (old === null) return null;
      if (old.digest === change.digest) return withoutSlot(old);
      const earlier = this.#earlier(text);
      const found = earlier.find(({ digest }) => digest === change.digest);
      if (found === undefined) throw versionNotFound();
      const current = { ...asCurrent(found, old, change), ...sharingOf(old) };
      const rest = earlier.filter((version) => version !== found);
      const kept = versionsToKeep<StoredVersion>(old, rest, { ...change, room: Infinity });
      this.#replace(text, { old, earlier, others: without(this.#held(), old, earlier) }, current, kept);
      return withoutSlot(current);
    });
  }

  /**
   * Returns null if there is no such prefix. `admit` gets the new guests before the write; `dropped` are those who lost
   * access.
   */
  patchMeta(
    key: PrefixKey,
    patch: SharingPatch,
    precondition: Precondition | undefined,
    admit: (guests: string[]) => void,
  ): { meta: PrefixMeta; dropped: string[] } | null {
    return this.#write(0, () => {
      const old = this.#read(keyText(key));
      checkPrecondition(old?.digest ?? null, precondition);
      if (old === null) return null;
      const meta = patchSharing(old, patch);
      const [before, after] = [guestsOf(old), guestsOf(meta)];
      admit([...after].filter((guest) => !before.has(guest)));
      this.#putMeta(meta);
      return { meta: withoutSlot(meta), dropped: [...before].filter((guest) => !after.has(guest)) };
    });
  }

  /** Removes a user from the lists of these prefixes. */
  strikeOff(user: string, keys: readonly PrefixKey[]): void {
    this.#write(0, () => {
      for (const key of keys) {
        const old = this.#read(keyText(key));
        if (old !== null && guestsOf(old).has(user)) this.#putMeta(withoutUsers(old, (other) => other === user));
      }
    });
  }

  /** Calls `action` with a prefix's metadata, under the write lock. */
  locked(key: PrefixKey, action: (meta: PrefixMeta | null) => void): void {
    this.#write(0, () => action(this.#read(keyText(key))));
  }

  head(key: PrefixKey): PrefixMeta | null {
    this.#root.resetReadTxn();
    const stored = this.#read(keyText(key));
    return stored === null ? null : withoutSlot(stored);
  }

  loadKv(key: PrefixKey, digest: string): Uint8Array | null {
    const meta = this.#current(key);
    if (meta?.digest !== digest) return null;
    const value = this.#blobs.getBinary(kvKey(partsKey(keyText(key), meta)));
    if (value === undefined) return null;
    const whole = value.byteOffset === 0 && value.byteLength === value.buffer.byteLength;
    return whole ? new Uint8Array(value.buffer) : new Uint8Array(value);
  }

  loadFile(key: PrefixKey, digest: string, file: string, range?: ByteRange): Uint8Array | null {
    const meta = this.#current(key);
    if (meta?.digest !== digest || !Object.hasOwn(meta.files, file)) return null;
    const blob = fileKey(partsKey(keyText(key), meta), file);
    // A view of the mapped file, valid until the next read.
    const view = this.#blobs.getBinaryFast(blob);
    if (view === undefined) return null;
    const bytes = meta.files[file]!;
    const { from, length } = range ?? { from: 0, length: bytes };
    const stored = Buffer.from(view.buffer, view.byteOffset, view.length);
    // Files stored before checksums existed have none.
    const begin = stored.length === bytes ? 0 : SEAL_BYTES;
    try {
      // Check once for all ranges: chunked reads begin with the first.
      if (begin > 0 && from === 0) unseal(blob, stored);
    } catch (error) {
      throw new PrefixdError("prefix_damaged", "The stored file is not what was uploaded; upload the prefix again.", {
        cause: error,
      });
    }
    return new Uint8Array(stored.subarray(begin + from, begin + Math.min(from + length, bytes)));
  }

  list(user: string, options: { after?: string; limit: number }): ListedPrefix[] {
    this.#root.resetReadTxn();
    const { start, end } = userRange(user);
    const after = options.after === undefined ? start : keyText({ user, name: options.after });
    const range = this.#meta.getRange({
      start: after,
      end,
      exclusiveStart: options.after !== undefined,
      limit: options.limit,
    });
    return [...range].map(({ key, value }) => listedFor(user, withoutSlot(parseMeta(key, value))));
  }

  /** Returns what was deleted. */
  delete(key: PrefixKey, precondition: Precondition | undefined): PrefixMeta | null {
    return this.#write(0, () => {
      const text = keyText(key);
      const old = this.#read(text);
      checkPrecondition(old?.digest ?? null, precondition);
      if (old === null) return null;
      const earlier = this.#earlier(text);
      this.#replace(text, { old, earlier, others: without(this.#held(), old, earlier) }, null, []);
      return withoutSlot(old);
    });
  }

  /** All prefixes that are shared with anyone. */
  shared(): PrefixMeta[] {
    this.#root.resetReadTxn();
    return [...this.#meta.getRange({})]
      .map(({ key, value }) => parseMeta(key, value))
      .filter((meta) => guestsOf(meta).size > 0);
  }

  /** Number of prefixes, and the bytes of their tensors. */
  held(): HeldPrefixes {
    this.#root.resetReadTxn();
    return this.#held();
  }

  /** False if the file was deleted, replaced or truncated; then this can only be closed. */
  isStillThere(): boolean {
    return this.#file.isStillThere();
  }

  /** Returns the file's state after closing. */
  async close(): Promise<FileState> {
    await this.#root.close();
    return this.#file.state;
  }

  /** One fsynced transaction: all of it, or nothing if it throws. `bytes` is about how much it adds. */
  #write<T>(bytes: number, action: () => T): T {
    try {
      mustHaveRoom(this.#dir, bytes);
      const result = this.#root.transactionSync(action);
      this.#file.mustBeThere();
      return result;
    } catch (error) {
      throw isDiskFull(error, this.#dir, bytes) ? diskFull(error) : error;
    }
  }

  #current(key: PrefixKey): StoredMeta | null {
    this.#root.resetReadTxn();
    return this.#read(keyText(key));
  }

  /** Earlier versions, the one replaced last first. */
  #earlier(key: string): StoredVersion[] {
    const value = this.#info.getBinary(versionsKey(key));
    return value === undefined ? [] : (unsealJson(versionsKey(key), asBuffer(value)) as StoredVersion[]);
  }

  /**
   * Writes a prefix's current version (null: none) and its earlier ones, and the totals; removes the parts of those that
   * are no more. `others` are the totals without this prefix.
   */
  #replace(
    key: string,
    { old, earlier, others }: { old: StoredMeta | null; earlier: readonly StoredVersion[]; others: HeldPrefixes },
    current: StoredMeta | null,
    kept: readonly StoredVersion[],
  ): void {
    const before = old === null ? earlier : [old, ...earlier];
    const after = current === null ? kept : [current, ...kept];
    const slots = new Set(after.map(({ slot = 0 }) => slot));
    for (const version of before) {
      if (slots.has(version.slot ?? 0)) continue;
      const base = partsKey(key, version);
      this.#blobs.removeSync(kvKey(base));
      for (const file of Object.keys(version.files)) this.#blobs.removeSync(fileKey(base, file));
    }
    if (current === null) this.#meta.removeSync(key);
    else this.#putMeta(current);
    const name = versionsKey(key);
    const versions = kept.map((version) => withoutSharing(version));
    if (kept.length > 0) this.#info.putSync(name, sealJson(name, versions));
    else if (earlier.length > 0) this.#info.removeSync(name);
    const stored = (versions: readonly StoredVersion[]): number =>
      versions.reduce((sum, version) => sum + storedBytes(version), 0);
    this.#putInfo("bytes", String(this.#total() + stored(after) - stored(before)));
    this.#putHeld({
      prefixes: others.prefixes + (current === null ? 0 : 1),
      bytes: after.reduce((sum, { bytes }) => sum + bytes, others.bytes),
    });
  }

  #read(key: string): StoredMeta | null {
    const value = this.#meta.getBinary(key);
    return value === undefined ? null : parseMeta(key, value);
  }

  #putMeta(meta: StoredMeta): void {
    this.#meta.putSync(keyText(meta), sealJson(keyText(meta), meta));
  }

  /** Stored with each transaction; counted in an environment that predates this. */
  #held(): HeldPrefixes {
    const kept = this.#info.getBinary("held")?.toString();
    if (kept !== undefined) return JSON.parse(kept) as HeldPrefixes;
    let [prefixes, bytes] = [0, 0];
    for (const { key, value } of this.#meta.getRange({})) {
      prefixes++;
      bytes += parseMeta(key, value).bytes;
      for (const version of this.#earlier(key)) bytes += version.bytes;
    }
    return { prefixes, bytes };
  }

  #putHeld(held: HeldPrefixes): void {
    this.#putInfo("held", JSON.stringify(held));
  }

  #total(): number {
    return Number(this.#info.getBinary("bytes")?.toString() ?? 0);
  }

  #putInfo(key: string, value: string): void {
    this.#info.putSync(key, Buffer.from(value));
  }
}

export function diskFull(cause: unknown): PrefixdError {
  return new PrefixdError("store_full", "The disk of the prefix store is full.", { cause });
}

/** "0" is the character after "/". */
function userRange(user: string): { start: string; end: string } {
  const text = encodeURIComponent(user);
  return { start: `${text}/`, end: `${text}0` };
}

/** The totals without a prefix and its earlier versions. */
function without(held: HeldPrefixes, old: StoredMeta | null, earlier: readonly StoredVersion[]): HeldPrefixes {
  const versions = old === null ? earlier : [old, ...earlier];
  return {
    prefixes: held.prefixes - (old === null ? 0 : 1),
    bytes: versions.reduce((rest, { bytes }) => rest - bytes, held.bytes),
  };
}

function withoutSlot<T extends StoredVersion>(stored: T): Omit<T, "slot"> {
  const meta: Omit<T, "slot"> & { slot?: number } = { ...stored };
  delete meta.slot;
  return meta;
}

function storedBytes(meta: Pick<PrefixMeta, "bytes" | "files">): number {
  return Object.values(meta.files).reduce((sum, size) => sum + size, meta.bytes);
}

function parseMeta(key: string, value: Uint8Array): StoredMeta {
  return unsealJson(key, asBuffer(value)) as StoredMeta;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
