import { randomUUID } from "node:crypto";
import { accessSync, constants, existsSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { DamagedFileError } from "./check.ts";
import { DATA_FILE, fileState, isDiskFull, isUnchanged, type FileState } from "./file.ts";
import { eraseFolder, syncFolder } from "./erase.ts";
import { diskFull, LmdbEnvironment } from "./prefix-environment.ts";
import { prefixesFolder, userFolderName } from "./prefix-files.ts";
import type { RemovedPrefixes } from "../prefixes/store.ts";

/** Open at a time: each costs a few file descriptors and address space. */
const MAX_OPEN = 64;

/**
 * All users' environments, some of them open:
 *
 *   prefixes/HASH/   one user's; HASH is of the user's id, which may be longer than a file name and is nobody's business
 *   removed/UUID/    one whose user is gone and whose bytes are being overwritten, or one that is being made; gone at the next start
 *
 * Renaming the one into the other is the moment of removal: before it the user is whole, after it gone, whenever the process dies.
 *
 * A file that is damaged, or that was deleted while this runs, is an error (DamagedFileError) of every call for its user, until a sound one is
 * there: each call looks again.
 */
export class LmdbEnvironments {
  readonly #prefixes: string;
  readonly #removed: string;
  readonly #restored: (environment: LmdbEnvironment) => void;
  /** In order of use, the latest last. */
  readonly #open = new Map<string, LmdbEnvironment>();
  /** Those that were open, or could not be opened: what the file was when it was closed; null: what is there now has not been checked. */
  readonly #seen = new Map<string, FileState | null>();

  /** `restored` hears of an environment that was opened again and is not what it was. */
  constructor(dir: string, restored: (environment: LmdbEnvironment) => void) {
    this.#prefixes = prefixesFolder(dir);
    this.#removed = join(dir, "removed");
    this.#restored = restored;
    for (const folder of [this.#prefixes, this.#removed]) mkdirSync(folder, { recursive: true });
    this.ping();
    for (const left of readdirSync(this.#removed)) eraseFolder(join(this.#removed, left));
  }

  /** Names of all, by which `named` finds them. */
  names(): string[] {
    return readdirSync(this.#prefixes);
  }

  /** The user's, if there is one. Throws DamagedFileError. */
  of(user: string): Promise<LmdbEnvironment | null> {
    return this.#find(userFolderName(user));
  }

  /** null: there is none that can be read. For what goes through many users' environments. */
  async readable(user: string): Promise<LmdbEnvironment | null> {
    return this.named(userFolderName(user));
  }

  /** The same by name. */
  async named(name: string): Promise<LmdbEnvironment | null> {
    try {
      return await this.#find(name);
    } catch (error) {
      if (error instanceof DamagedFileError) return null;
      throw error;
    }
  }

  /** Made elsewhere and renamed: what a crash leaves is no half of an environment. */
  async make(user: string): Promise<LmdbEnvironment> {
    const name = userFolderName(user);
    const [dir, made] = [join(this.#prefixes, name), join(this.#removed, randomUUID())];
    try {
      await new LmdbEnvironment(made, { make: true }).close();
      if (!this.#exists(name)) rmSync(dir, { recursive: true, force: true });
      renameSync(made, dir);
      for (const folder of [dir, this.#prefixes]) syncFolder(folder);
    } catch (error) {
      const full = isDiskFull(error, this.#prefixes, 0);
      rmSync(made, { recursive: true, force: true });
      if (full) throw diskFull(error);
      // Unless another process was quicker.
      if (!this.#exists(name)) throw error;
    }
    return this.#openFolder(name);
  }

  /**
   * Destroys the user's; of a damaged one nobody can say what it held, and nothing is counted. One that was deleted may be brought back by whoever
   * did it: that is an error. `before` hears of the environment, if it can be read.
   */
  async remove(user: string, before: (environment: LmdbEnvironment) => void): Promise<RemovedPrefixes> {
    const name = userFolderName(user);
    this.ping();
    const environment = await this.named(name);
    // Of one that is missing this throws.
    if (environment === null && !this.#exists(name)) return (await this.#find(name), { prefixes: 0, bytes: 0 });
    const removed = environment?.held() ?? { prefixes: 0, bytes: 0 };
    if (environment !== null) before(environment);
    await this.#close(name);
    const doomed = join(this.#removed, randomUUID());
    renameSync(join(this.#prefixes, name), doomed);
    this.#seen.delete(name);
    for (const dir of [this.#prefixes, this.#removed]) syncFolder(dir);
    eraseFolder(doomed);
    syncFolder(this.#removed);
    return removed;
  }

  /** Throws when the folder cannot be written. */
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
