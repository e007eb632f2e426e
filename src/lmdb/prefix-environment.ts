import type { Database, RootDatabase } from "lmdb";
import { PrefixdError } from "../errors.ts";
import { isDiskFull, makeLmdb, mustHaveRoom, openLmdb, OpenFile, type FileState } from "./file.ts";
import { seal, SEAL_BYTES, sealJson, unseal, unsealJson } from "./sealed.ts";
import { fileKey, kvKey, PrefixContents } from "./prefix-contents.ts";
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
  PrefixQuota,
  PrefixRecord,
  Precondition,
  SharingPatch,
} from "../prefixes/store.ts";

const FORMAT = "1";

/**
 * One user's prefixes: an LMDB environment in its own folder, so that removing the user can destroy the file. Every
 * call is synchronous and blocks on the disk, so it runs on its own thread. Three databases, so that listing never
 * reads tensors: `meta` (user/name -> JSON), `blobs` (user/name/part -> bytes; files with a checksum, tensors have
 * their digest) and `info` (format, bytes stored, totals).
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

  put(
    record: PrefixRecord,
    precondition: Precondition | undefined,
    quota: PrefixQuota | undefined,
  ): { created: boolean } {
    const { meta } = record;
    const key = keyText(meta);
    const bytes = storedBytes(meta);
    return this.#write(bytes, () => {
      const old = this.#read(key);
      checkPrecondition(old?.digest ?? null, precondition);
      const held = this.#held();
      const others = old === null ? held : { prefixes: held.prefixes - 1, bytes: held.bytes - old.bytes };
      checkQuota(quota, others, meta.bytes, old?.bytes ?? null);
      const grown = bytes - (old === null ? 0 : storedBytes(old));
      if (old !== null) this.#drop(key, old);
      // Copy it: the tensors arrive in memory shared by two threads, which would crash LMDB's binding.
      this.#blobs.putSync(kvKey(key), Buffer.from(record.kv));
      for (const [file, content] of record.files)
        this.#blobs.putSync(fileKey(key, file), seal(fileKey(key, file), content));
      this.#putMeta({ ...withoutSharing(meta), ...sharingOf(old) });
      this.#putInfo("bytes", String(this.#total() + grown));
      this.#putHeld({ prefixes: others.prefixes + 1, bytes: others.bytes + meta.bytes });
      return { created: old === null };
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
      return { meta, dropped: [...before].filter((guest) => !after.has(guest)) };
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
    return this.#read(keyText(key));
  }

  loadKv(key: PrefixKey, digest: string): Uint8Array | null {
    return this.#load(key, digest, kvKey(keyText(key)));
  }

  loadFile(key: PrefixKey, digest: string, file: string, range?: ByteRange): Uint8Array | null {
    const blob = fileKey(keyText(key), file);
    const meta = this.head(key);
    if (meta?.digest !== digest || !Object.hasOwn(meta.files, file)) return null;
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
    return [...range].map(({ key, value }) => listedFor(user, parseMeta(key, value)));
  }

  /** Returns what was deleted. */
  delete(key: PrefixKey, precondition: Precondition | undefined): PrefixMeta | null {
    return this.#write(0, () => {
      const text = keyText(key);
      const old = this.#read(text);
      checkPrecondition(old?.digest ?? null, precondition);
      if (old === null) return null;
      const held = this.#held();
      this.#putInfo("bytes", String(this.#total() - storedBytes(old)));
      this.#putHeld({ prefixes: held.prefixes - 1, bytes: held.bytes - old.bytes });
      this.#drop(text, old);
      return old;
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

  #read(key: string): PrefixMeta | null {
    const value = this.#meta.getBinary(key);
    return value === undefined ? null : parseMeta(key, value);
  }

  #load(key: PrefixKey, digest: string, blob: string): Uint8Array | null {
    if (this.head(key)?.digest !== digest) return null;
    const value = this.#blobs.getBinary(blob);
    if (value === undefined) return null;
    const whole = value.byteOffset === 0 && value.byteLength === value.buffer.byteLength;
    return whole ? new Uint8Array(value.buffer) : new Uint8Array(value);
  }

  #putMeta(meta: PrefixMeta): void {
    this.#meta.putSync(keyText(meta), sealJson(keyText(meta), meta));
  }

  #drop(key: string, old: PrefixMeta): void {
    this.#meta.removeSync(key);
    this.#blobs.removeSync(kvKey(key));
    for (const file of Object.keys(old.files)) this.#blobs.removeSync(fileKey(key, file));
  }

  /** Stored with each transaction; counted in an environment that predates this. */
  #held(): HeldPrefixes {
    const kept = this.#info.getBinary("held")?.toString();
    if (kept !== undefined) return JSON.parse(kept) as HeldPrefixes;
    let [prefixes, bytes] = [0, 0];
    for (const { key, value } of this.#meta.getRange({})) {
      prefixes++;
      bytes += parseMeta(key, value).bytes;
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

function storedBytes(meta: PrefixMeta): number {
  return Object.values(meta.files).reduce((sum, size) => sum + size, meta.bytes);
}

function parseMeta(key: string, value: Uint8Array): PrefixMeta {
  return unsealJson(key, asBuffer(value)) as PrefixMeta;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
