import { randomUUID } from "node:crypto";
import { accessSync, constants, existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { PrefixdError } from "../errors.ts";
import { isDiskFull } from "../storage/lmdb-file.ts";
import { eraseFolder, syncFolder } from "./erase.ts";
import { diskFull, LmdbEnvironment } from "./lmdb-environment.ts";
import { prefixesFolder, userFile, userFolderName } from "./lmdb-files.ts";
import { LmdbShares } from "./lmdb-shares.ts";
import { keyText } from "./name.ts";
import { checkPrecondition } from "./precondition.ts";
import { EVERYONE, guestsOf, mayUse } from "./sharing.ts";
import type { ByteRange, HeldPrefixes, PrefixKey, PrefixMeta, PrefixQuota, PrefixRecord, Precondition, RemovedPrefixes, SharingPatch } from "./store.ts";

export interface LmdbOptions {
  readonly dir: string;
  /** Bound on the bytes of all records together; the file needs room for one more record than that. */
  readonly maxBytes?: number;
}

/** Environments open at a time: each costs a few file descriptors and address space. */
const MAX_OPEN = 64;

/**
 * The store's folder:
 *
 *   prefixes/HASH/   one user's LMDB environment; HASH is of the user's id, which may be longer than a file name and is nobody's business
 *   shares/          which prefixes are shared with whom (lmdb-shares.ts)
 *   removed/UUID/    an environment whose user is gone and whose bytes are being overwritten; finished at the next start
 *
 * Renaming the one into the other is the moment of removal: before it the user is whole, after it gone, whenever the process dies.
 */
export class LmdbTables {
  readonly #dir: string;
  readonly #prefixes: string;
  readonly #removed: string;
  readonly #maxBytes: number;
  /** In order of use, the latest last. */
  readonly #open = new Map<string, LmdbEnvironment>();
  /** Bytes of all records; null where no bound asks for it. */
  #total: number | null = null;
  readonly #shares: LmdbShares;
  #sharesChecked = false;

  constructor(options: LmdbOptions) {
    this.#dir = options.dir;
    this.#prefixes = prefixesFolder(options.dir);
    this.#removed = join(options.dir, "removed");
    this.#maxBytes = options.maxBytes ?? Infinity;
    for (const dir of [this.#prefixes, this.#removed]) mkdirSync(dir, { recursive: true });
    this.ping();
    this.#shares = new LmdbShares(options.dir, { built: readdirSync(this.#prefixes).length === 0 });
    for (const left of readdirSync(this.#removed)) eraseFolder(join(this.#removed, left));
  }

  async put(record: PrefixRecord, precondition?: Precondition, quota?: PrefixQuota): Promise<{ created: boolean }> {
    const { user } = record.meta;
    await this.#countAll();
    let grown = 0;
    const environment = (await this.#find(user)) ?? (await this.#make(user));
    const result = environment.put(record, precondition, quota, (bytes) => {
      grown = bytes;
      if (this.#total === null || this.#total + bytes <= this.#maxBytes) return;
      throw new PrefixdError("store_full", `The prefix store may hold ${this.#maxBytes} bytes and has no room for ${bytes} more.`);
    });
    if (this.#total !== null) this.#total += grown;
    return result;
  }

  async patchMeta(key: PrefixKey, patch: SharingPatch, precondition?: Precondition): Promise<PrefixMeta | null> {
    const environment = await this.#find(key.user);
    if (environment === null) {
      checkPrecondition(null, precondition);
      return null;
    }
    const shares = await this.#checkedShares();
    const patched = environment.patchMeta(key, patch, precondition, (guests) => shares.add(key, guests));
    if (patched === null) return null;
    await this.#forget(environment, key, patched.dropped);
    return patched.meta;
  }

  async head(key: PrefixKey): Promise<PrefixMeta | null> {
    return (await this.#find(key.user))?.head(key) ?? null;
  }

  async loadKv(key: PrefixKey, digest: string): Promise<Uint8Array | null> {
    return (await this.#find(key.user))?.loadKv(key, digest) ?? null;
  }

  async loadFile(key: PrefixKey, digest: string, file: string, range?: ByteRange): Promise<Uint8Array | null> {
    return (await this.#find(key.user))?.loadFile(key, digest, file, range) ?? null;
  }

  async list(user: string, options: { after?: string; limit: number }): Promise<PrefixMeta[]> {
    return (await this.#find(user))?.list(user, options) ?? [];
  }

  /**
   * At most `limit` of others' prefixes that a user may use, in order after `after` (a key's text), out of as many entries of the index;
   * `next`: where to go on, null: there are no more.
   */
  async listShared(user: string, after: string | null, limit: number): Promise<{ metas: PrefixMeta[]; next: string | null }> {
    const keys = (await this.#checkedShares()).page(user, after, limit);
    const metas: PrefixMeta[] = [];
    for (const key of keys) {
      const environment = await this.#find(key.user);
      const meta = environment?.head(key) ?? null;
      if (meta !== null && mayUse(meta, user)) metas.push(meta);
      else if (environment !== null) await this.#forget(environment, key, [user, EVERYONE]);
    }
    const last = keys.at(-1);
    return { metas, next: keys.length < limit || last === undefined ? null : keyText(last) };
  }

  async delete(key: PrefixKey, precondition?: Precondition): Promise<boolean> {
    const environment = await this.#find(key.user);
    if (environment === null) {
      checkPrecondition(null, precondition);
      return false;
    }
    const before = this.#total === null ? 0 : environment.bytes();
    const deleted = environment.delete(key, precondition);
    if (this.#total !== null) this.#total += environment.bytes() - before;
    if (deleted !== null) await this.#forget(environment, key, [...guestsOf(deleted)]);
    return deleted !== null;
  }

  async held(user: string): Promise<HeldPrefixes> {
    return (await this.#find(user))?.held() ?? { prefixes: 0, bytes: 0 };
  }

  async deleteUser(user: string): Promise<RemovedPrefixes> {
    // First: on a full disk it makes room for the rest.
    const removed = await this.#deletePrefixes(user);
    const shares = await this.#checkedShares();
    const byOwner = new Map<string, PrefixKey[]>();
    for (const key of shares.sharedWith(user)) byOwner.set(key.user, [...(byOwner.get(key.user) ?? []), key]);
    for (const [owner, keys] of byOwner) (await this.#find(owner))?.strikeOff(user, keys);
    shares.removeUsers(new Set([user]));
    return removed;
  }

  /** Throws when the folder cannot be written. */
  ping(): void {
    for (const dir of [this.#prefixes, this.#removed]) accessSync(dir, constants.R_OK | constants.W_OK);
  }

  async close(): Promise<void> {
    for (const environment of this.#open.values()) await environment.close();
    this.#open.clear();
    await this.#shares.close();
  }

  async #deletePrefixes(user: string): Promise<RemovedPrefixes> {
    const environment = await this.#find(user);
    if (environment === null) return { prefixes: 0, bytes: 0 };
    const removed = environment.held();
    if (this.#total !== null) this.#total -= environment.bytes();
    this.#open.delete(userFolderName(user));
    await environment.close();
    const doomed = join(this.#removed, randomUUID());
    renameSync(this.#folder(user), doomed);
    for (const dir of [this.#prefixes, this.#removed]) syncFolder(dir);
    eraseFolder(doomed);
    syncFolder(this.#removed);
    return removed;
  }

  /** Takes entries of the index away whose guests the prefix does not let in. One that stays after an error does no harm. */
  async #forget(environment: LmdbEnvironment, key: PrefixKey, guests: readonly string[]): Promise<void> {
    if (guests.length === 0) return;
    try {
      const shares = await this.#checkedShares();
      environment.locked(key, (meta) => {
        const stay = meta === null ? new Set<string>() : guestsOf(meta);
        shares.remove(key, guests.filter((guest) => !stay.has(guest)));
      });
    } catch {
      // The next list that comes across it tries again.
    }
  }

  /** Once: the index is built in a folder of before there was one, and forgets owners whose removal a crash has cut short. */
  async #checkedShares(): Promise<LmdbShares> {
    if (this.#sharesChecked) return this.#shares;
    if (!this.#shares.isBuilt()) {
      for (const name of readdirSync(this.#prefixes)) {
        const environment = this.#open.get(name) ?? (await this.#openFolder(name));
        for (const meta of environment.shared()) this.#shares.add(meta, [...guestsOf(meta)]);
      }
      this.#shares.setBuilt();
    }
    this.#shares.removeUsers(new Set([...this.#shares.owners()].filter((owner) => !existsSync(userFile(this.#dir, owner)))));
    this.#sharesChecked = true;
    return this.#shares;
  }

  #folder(user: string): string {
    return join(this.#prefixes, userFolderName(user));
  }

  /** The user's environment, if there is one. */
  async #find(user: string): Promise<LmdbEnvironment | null> {
    const name = userFolderName(user);
    const known = this.#open.get(name);
    if (known !== undefined) {
      this.#open.delete(name);
      this.#open.set(name, known);
      return known;
    }
    return existsSync(userFile(this.#dir, user)) ? this.#openFolder(name) : null;
  }

  async #make(user: string): Promise<LmdbEnvironment> {
    const dir = this.#folder(user);
    try {
      const environment = await this.#openFolder(userFolderName(user));
      for (const folder of [dir, this.#prefixes]) syncFolder(folder);
      return environment;
    } catch (error) {
      const full = isDiskFull(error, this.#prefixes, 0);
      // Half made, it would have to be finished by whoever only wants to read.
      rmSync(dir, { recursive: true, force: true });
      throw full ? diskFull(error) : error;
    }
  }

  async #openFolder(name: string): Promise<LmdbEnvironment> {
    const environment = new LmdbEnvironment(join(this.#prefixes, name));
    this.#open.set(name, environment);
    const [oldest] = this.#open;
    if (this.#open.size > MAX_OPEN && oldest !== undefined) {
      this.#open.delete(oldest[0]);
      await oldest[1].close();
    }
    return environment;
  }

  /** Asks every environment once how much it holds, and keeps count from then on. */
  async #countAll(): Promise<void> {
    if (this.#total !== null || this.#maxBytes === Infinity) return;
    let total = 0;
    for (const name of readdirSync(this.#prefixes)) total += (this.#open.get(name) ?? (await this.#openFolder(name))).bytes();
    this.#total = total;
  }
}
