import { randomUUID } from "node:crypto";
import { accessSync, constants, existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { DamagedFileError } from "./check.ts";
import { DATA_FILE, fileState, isDiskFull, isUnchanged, type FileState } from "./file.ts";
import { eraseFolder, syncFolder } from "./erase.ts";
import { diskFull, LmdbEnvironment } from "./prefix-environment.ts";
import { prefixesFolder, userFolderName } from "./prefix-files.ts";
import type { RemovedPrefixes } from "../prefixes/store.ts";

/** Maximum open at a time: each takes a few file descriptors and address space. */
const MAX_OPEN = 64;

/**
 * All users' environments, some of them open:
 *
 *   prefixes/HASH/   a user's environment; HASH is of the user's id, which may exceed a file name's length and should
 *                    not be visible
 *   removed/UUID/    an environment whose user is gone and whose bytes are being overwritten, or one being created;
 *                    deleted at the next start
 *
 * The rename from one to the other is the moment of removal: before it the user is whole, after it gone, whenever the
 * process dies.
 *
 * A file that is damaged, or was deleted while this runs, is an error (DamagedFileError) of every call for its user
 * until a sound one is there: each call looks again.
 */
export class LmdbEnvironments {
  readonly #prefixes: string;
  readonly #removed: string;
  readonly #restored: (environment: LmdbEnvironment) => void;
  /** Least recently used first. */
  readonly #open = new Map<string, LmdbEnvironment>();
  /**
   * Environments that were open, or failed to open: the file's state when it was closed; null if the present file is
   * unchecked.
   */
  readonly #seen = new Map<string, FileState | null>();

  /** @param restored called with an environment that was reopened and has changed since */
  constructor(dir: string, restored: (environment: LmdbEnvironment) => void) {
    this.#prefixes = prefixesFolder(dir);
    this.#removed = join(dir, "removed");
    this.#restored = restored;
    for (const folder of [this.#prefixes, this.#removed]) mkdirSync(folder, { recursive: true });
    this.ping();
    for (const left of readdirSync(this.#removed)) eraseFolder(join(this.#removed, left));
  }

  /** Folder names of all environments, for `named`. */
  names(): string[] {
    return readdirSync(this.#prefixes);
  }

  /** The user's environment, if there is one. Throws DamagedFileError. */
  of(user: string): Promise<LmdbEnvironment | null> {
    return this.#find(userFolderName(user));
  }

  /** The user's environment; null if there is no readable one. For walks over many users' environments. */
  async readable(user: string): Promise<LmdbEnvironment | null> {
    return this.named(userFolderName(user));
  }

  /** The same by folder name. */
  async named(name: string): Promise<LmdbEnvironment | null> {
    try {
      return await this.#find(name);
    } catch (error) {
      if (error instanceof DamagedFileError) return null;
      throw error;
    }
  }

  /** Created elsewhere and renamed, so that a crash leaves no half environment. */
  async make(user: string): Promise<LmdbEnvironment> {
    const name = userFolderName(user);
    const [dir, made] = [join(this.#prefixes, name), join(this.#removed, randomUUID())];
    try {
      await new LmdbEnvironment(made, { make: true }).close();
      this.#giveName(made, name);
      for (const folder of [dir, this.#prefixes]) syncFolder(folder);
    } catch (error) {
      const full = isDiskFull(error, this.#prefixes, 0);
      rmSync(made, { recursive: true, force: true });
      if (full) throw diskFull(error);
      // Not an error if another process was faster.
      if (!this.#exists(name)) throw error;
    }
    return this.#openFolder(name);
  }

  /** Throws if the name is taken. */
  #giveName(made: string, name: string): void {
    const dir = join(this.#prefixes, name);
    try {
      // Before anything is cleared away: another thread's environment may have just got the name.
      renameSync(made, dir);
    } catch (error) {
      if (!existsSync(dir) || this.#exists(name)) throw error;
      // The rest of a folder whose data file was deleted.
      rmSync(dir, { recursive: true });
      renameSync(made, dir);
    }
  }

  /**
   * Destroys the user's environment. The contents of a damaged one are unknown and count as nothing. Throws if it was
   * deleted by someone else, who may bring it back.
   */
  async remove(user: string): Promise<RemovedPrefixes> {
    const name = userFolderName(user);
    this.ping();
    const environment = await this.named(name);
    // Throws if the environment was deleted.
    if (environment === null && !this.#exists(name)) return (await this.#find(name), { prefixes: 0, bytes: 0 });
    const removed = environment?.held() ?? { prefixes: 0, bytes: 0 };
    await this.#close(name);
    const doomed = join(this.#removed, randomUUID());
    renameSync(join(this.#prefixes, name), doomed);
    this.#seen.delete(name);
    for (const dir of [this.#prefixes, this.#removed]) syncFolder(dir);
    eraseFolder(doomed);
    syncFolder(this.#removed);
    return removed;
  }

  /** Throws if the folder cannot be written. */
  ping(): void {
    for (const dir of [this.#prefixes, this.#removed]) accessSync(dir, constants.R_OK | constants.W_OK);
  }

  async close(): Promise<void> {
    for (const name of [...this.#open.keys()]) await this.#close(name);
  }

  async #find(name: string): Promise<LmdbEnvironment | null> {
    const known = this.#open.get(name);
    if (known?.isStillThere() === true) {
      this.#open.delete(name);
      this.#open.set(name, known);
      return known;
    }
    await this.#close(name);
    if (this.#exists(name)) return this.#openFolder(name);
    if (this.#seen.has(name)) throw new DamagedFileError(`${this.#file(name)} was deleted`);
    return null;
  }

  async #openFolder(name: string): Promise<LmdbEnvironment> {
    const dir = join(this.#prefixes, name);
    const before = this.#seen.get(name);
    const checked = before !== undefined && before !== null && isUnchanged(before, fileState(dir));
    this.#seen.set(name, null);
    const environment = new LmdbEnvironment(dir, { checked });
    try {
      if (before !== undefined && !checked) this.#restored(environment);
    } catch (error) {
      await environment.close();
      throw error;
    }
    this.#open.set(name, environment);
    const [oldest] = this.#open.keys();
    if (this.#open.size > MAX_OPEN && oldest !== undefined) await this.#close(oldest);
    return environment;
  }

  async #close(name: string): Promise<void> {
    const environment = this.#open.get(name);
    if (environment === undefined) return;
    this.#open.delete(name);
    const sound = environment.isStillThere();
    const state = await environment.close();
    this.#seen.set(name, sound ? state : null);
  }

  #exists(name: string): boolean {
    return existsSync(this.#file(name));
  }

  #file(name: string): string {
    return join(this.#prefixes, name, DATA_FILE);
  }
}
