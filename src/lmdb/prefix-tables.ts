import { existsSync, rmSync } from "node:fs";
import { DamagedFileError } from "./check.ts";
import type { LmdbEnvironment } from "./prefix-environment.ts";
import { LmdbEnvironments } from "./prefix-environments.ts";
import { sharesFolder, userFile } from "./prefix-files.ts";
import { LmdbShares } from "./shares.ts";
import { keyText } from "../prefixes/name.ts";
import { checkPrecondition } from "../prefixes/precondition.ts";
import { EVERYONE, guestsOf, listedFor, mayUse } from "../prefixes/sharing.ts";
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
  RemovedPrefixes,
  SharedPart,
  SharingPatch,
  VersionChange,
} from "../prefixes/store.ts";

export interface LmdbOptions {
  readonly dir: string;
}

/**
 * The store's folder: all users' environments (prefix-environments.ts), and in `shares` the sharing index (shares.ts).
 */
export class LmdbTables {
  readonly #dir: string;
  readonly #environments: LmdbEnvironments;
  readonly #shares: LmdbShares;
  #sharesChecked = false;

  constructor(options: LmdbOptions) {
    this.#dir = options.dir;
    // An environment restored from a backup may share prefixes that the index does not know.
    this.#environments = new LmdbEnvironments(options.dir, (environment) => this.#addShares(environment));
    this.#shares = openShares(options.dir, { built: this.#environments.names().length === 0 });
  }

  async put(record: PrefixRecord, options: PutOptions = {}): Promise<{ created: boolean }> {
    const { user } = record.meta;
    const environment = (await this.#environments.of(user)) ?? (await this.#environments.make(user));
    return environment.put(record, options);
  }

  async versions(key: PrefixKey): Promise<PrefixVersion[]> {
    return (await this.#environments.of(key.user))?.versions(key) ?? [];
  }

  async restore(key: PrefixKey, change: VersionChange, precondition?: Precondition): Promise<PrefixMeta | null> {
    const environment = await this.#environments.of(key.user);
    if (environment !== null) return environment.restore(key, change, precondition);
    checkPrecondition(null, precondition);
    return null;
  }

  async patchMeta(key: PrefixKey, patch: SharingPatch, precondition?: Precondition): Promise<PrefixMeta | null> {
    const environment = await this.#environments.of(key.user);
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

  /** Also null for an `asker` without access: sending them the record would take longer than sending nothing. */
  async head(key: PrefixKey, asker = key.user): Promise<PrefixMeta | null> {
    const meta = (await this.#environments.of(key.user))?.head(key) ?? null;
    return meta !== null && mayUse(meta, asker) ? meta : null;
  }

  async loadKv(key: PrefixKey, digest: string): Promise<Uint8Array | null> {
    return (await this.#environments.of(key.user))?.loadKv(key, digest) ?? null;
  }

  async loadFile(key: PrefixKey, digest: string, file: string, range?: ByteRange): Promise<Uint8Array | null> {
    return (await this.#environments.of(key.user))?.loadFile(key, digest, file, range) ?? null;
  }

  async list(user: string, options: { after?: string; limit: number }): Promise<ListedPrefix[]> {
    return (await this.#environments.of(user))?.list(user, options) ?? [];
  }

  /** What `limit` entries of the index give of others' prefixes that a user may use, after `after` (a key's text). */
  async listShared(user: string, after: string | null, limit: number): Promise<SharedPart> {
    const keys = (await this.#checkedShares()).page(user, after, limit);
    const found: ListedPrefix[] = [];
    for (const key of keys) {
      const environment = await this.#environments.readable(key.user);
      const meta = environment?.head(key) ?? null;
      if (meta !== null && mayUse(meta, user)) found.push(listedFor(user, meta));
      else if (environment !== null) await this.#forget(environment, key, [user, EVERYONE]);
    }
    const last = keys.at(-1);
    return { found, next: keys.length < limit || last === undefined ? null : keyText(last) };
  }

  async delete(key: PrefixKey, precondition?: Precondition): Promise<boolean> {
    const environment = await this.#environments.of(key.user);
    if (environment === null) {
      checkPrecondition(null, precondition);
      return false;
    }
    const deleted = environment.delete(key, precondition);
    if (deleted !== null) await this.#forget(environment, key, [...guestsOf(deleted)]);
    return deleted !== null;
  }

  async held(user: string): Promise<HeldPrefixes> {
    return (await this.#environments.of(user))?.held() ?? { prefixes: 0, bytes: 0 };
  }

  async deleteUser(user: string): Promise<RemovedPrefixes> {
    // First, because it frees space for the rest on a full disk.
    const removed = await this.#environments.remove(user);
    this.#sharesChecked &&= this.#shares.isBuilt();
    const shares = await this.#checkedShares();
    if (!shares.isBuilt())
      throw new DamagedFileError(
        "somebody's file cannot be read: whether prefixes in it are shared with the user cannot be known",
      );
    const byOwner = new Map<string, PrefixKey[]>();
    for (const key of shares.sharedWith(user)) byOwner.set(key.user, [...(byOwner.get(key.user) ?? []), key]);
    for (const [owner, keys] of byOwner) (await this.#environments.of(owner))?.strikeOff(user, keys);
    shares.removeUsers(new Set([user]));
    return removed;
  }

  /** Throws if the folder cannot be written. */
  ping(): void {
    this.#environments.ping();
  }

  async close(): Promise<void> {
    await this.#environments.close();
    await this.#shares.close();
  }

  #addShares(environment: LmdbEnvironment): void {
    for (const meta of environment.shared()) this.#shares.add(meta, [...guestsOf(meta)]);
  }

  /** Removes index entries of guests without access. One left behind by an error is harmless. */
  async #forget(environment: LmdbEnvironment, key: PrefixKey, guests: readonly string[]): Promise<void> {
    if (guests.length === 0) return;
    try {
      const shares = await this.#checkedShares();
      environment.locked(key, (meta) => {
        const stay = meta === null ? new Set<string>() : guestsOf(meta);
        shares.remove(
          key,
          guests.filter((guest) => !stay.has(guest)),
        );
      });
    } catch {
      // The next list that meets the entry tries again.
    }
  }

  /**
   * Runs once: builds the index for a folder that predates it, and drops owners whose removal a crash cut short. With a
   * damaged file it is built from the others', and not marked as built.
   */
  async #checkedShares(): Promise<LmdbShares> {
    if (this.#sharesChecked) return this.#shares;
    if (!this.#shares.isBuilt()) {
      let whole = true;
      for (const name of this.#environments.names()) {
        const environment = await this.#environments.named(name);
        if (environment === null) whole = false;
        else this.#addShares(environment);
      }
      if (whole) this.#shares.setBuilt();
    }
    this.#shares.removeUsers(
      new Set([...this.#shares.owners()].filter((owner) => !existsSync(userFile(this.#dir, owner)))),
    );
    this.#sharesChecked = true;
    return this.#shares;
  }
}

/** The index derives from the prefixes: a damaged one is rebuilt. */
function openShares(dir: string, options: { built: boolean }): LmdbShares {
  try {
    return new LmdbShares(dir, options);
  } catch (error) {
    if (!(error instanceof DamagedFileError)) throw error;
    rmSync(sharesFolder(dir), { recursive: true, force: true });
    return new LmdbShares(dir, options);
  }
}
