import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { RootDatabase } from "lmdb";
import { PrefixdError } from "../errors.ts";
import { DamagedFileError, type ContentsCheck } from "./check.ts";
import { DATA_FILE, isDiskFull, makeLmdb, mustHaveRoom, openLmdb, OpenFile } from "./file.ts";

/** Names the sub-folder of the current environment. Absent at first: `0`, or none yet. */
const POINTER = "current";
const FIRST = "0";
/** Disk space needed for one more write: values are small. */
const WRITE_BYTES = 1 << 16;

interface Opened<D> {
  readonly name: string;
  readonly file: OpenFile;
  readonly root: RootDatabase<Buffer, string>;
  readonly databases: D;
}

export interface RewrittenLmdbOptions<D> {
  readonly dir: string;
  /** Maximum number of named databases. */
  readonly maxDbs: number;
  readonly databases: (root: RootDatabase<Buffer, string>) => D;
  readonly contents?: () => ContentsCheck;
  /** The store's name in errors. */
  readonly what: string;
}

/**
 * A small LMDB environment that can be rewritten without a part of it. Every call is synchronous and blocks on the
 * disk.
 *
 *   DIR/current   name of the current environment
 *   DIR/0, 1...   environments; only one remains at rest
 *
 * LMDB leaves deleted bytes in its free pages. So `rewrite` copies what stays to a new environment and moves the
 * pointer: the rename is the commit. This happens within a write transaction of the old environment, and every write
 * checks the pointer within its own, so that the copy misses none, from whichever process it comes.
 *
 * A file that is missing, damaged or not the one opened is an error of each call until a sound one is there.
 */
export class RewrittenLmdb<D> {
  readonly #options: RewrittenLmdbOptions<D>;
  readonly #dir: string;
  readonly #closing: Promise<void>[] = [];
  /** null if it could not be reopened. */
  #env: Opened<D> | null = null;

  /** Throws DamagedFileError. */
  constructor(options: RewrittenLmdbOptions<D>) {
    this.#options = options;
    this.#dir = options.dir;
    mkdirSync(this.#dir, { recursive: true });
    if (!existsSync(join(this.#dir, POINTER))) this.#begin();
    this.#current();
    // Leftovers of a crash: an unfinished copy, or the previous environment.
    this.#write((env) => {
      for (const entry of readdirSync(this.#dir))
        if (entry !== env.name && entry !== POINTER) rmSync(join(this.#dir, entry), { recursive: true, force: true });
    });
  }

  read(): D {
    const env = this.#current();
    env.root.resetReadTxn();
    return env.databases;
  }

  /** One fsynced transaction: all of it, or nothing if it throws. Throws `store_full`. */
  write<T>(action: (databases: D) => T): T {
    return this.#write(({ databases }) => action(databases));
  }

  /** `copy` copies what stays to the new environment; if it throws, the old one stays. Throws `store_full`. */
  rewrite<T>(copy: (old: D, fresh: D) => T): T {
    return this.#write((old) => {
      const fresh = this.#make(String(Number(old.name) + 1));
      let result: T;
      try {
        // What stays takes no more than what is there.
        mustHaveRoom(join(this.#dir, fresh.name), Number(old.file.state.size));
        result = fresh.root.transactionSync(() => copy(old.databases, fresh.databases));
        this.#movePointer(fresh.name);
      } catch (error) {
        this.#discard(fresh);
        throw error;
      }
      this.#env = fresh;
      this.#discard(old);
      return result;
    });
  }

  async close(): Promise<void> {
    await Promise.all([this.#env?.root.close(), ...this.#closing]);
  }

  /** The first start, or the first since the pointer always exists. A killed start may have left some of the files. */
  #begin(): void {
    const dir = join(this.#dir, FIRST);
    if ((statSync(join(dir, DATA_FILE), { throwIfNoEntry: false })?.size ?? 0) === 0) {
      rmSync(dir, { recursive: true, force: true });
      this.#env = this.#make(FIRST);
    }
    this.#movePointer(FIRST);
  }

  #make(name: string): Opened<D> {
    return this.#opened(name, makeLmdb(join(this.#dir, name), { maxDbs: this.#options.maxDbs }));
  }

  #open(name: string): Opened<D> {
    const { maxDbs, contents } = this.#options;
    return this.#opened(
      name,
      openLmdb(join(this.#dir, name), { maxDbs, ...(contents === undefined ? {} : { contents }) }),
    );
  }

  #opened(name: string, root: RootDatabase<Buffer, string>): Opened<D> {
    return { name, root, databases: this.#options.databases(root), file: new OpenFile(join(this.#dir, name)) };
  }

  #write<T>(action: (env: Opened<D>) => T): T {
    for (;;) {
      const env = this.#current();
      try {
        mustHaveRoom(join(this.#dir, env.name), WRITE_BYTES);
        const result = env.root.transactionSync(() => (this.#pointer() === env.name ? { value: action(env) } : null));
        if (result === null) continue;
        this.#env?.file.mustBeThere();
        return result.value;
      } catch (error) {
        throw isDiskFull(error, join(this.#dir, env.name), WRITE_BYTES)
          ? new PrefixdError("store_full", `The disk of the ${this.#options.what} is full.`, { cause: error })
          : error;
      }
    }
  }

  /** Another process may have moved the pointer; the file may have been deleted, replaced or truncated. */
  #current(): Opened<D> {
    const name = this.#pointer();
    if (this.#env !== null && this.#env.name === name && this.#env.file.isStillThere()) return this.#env;
    if (this.#env !== null) this.#closing.push(this.#env.root.close());
    this.#env = null;
    return (this.#env = this.#open(name));
  }

  #pointer(): string {
    try {
      return readFileSync(join(this.#dir, POINTER), "utf8");
    } catch (error) {
      throw new DamagedFileError(`${join(this.#dir, POINTER)} cannot be read`, { cause: error });
    }
  }

  #movePointer(name: string): void {
    const next = join(this.#dir, `${POINTER}.${name}`);
    writeFileSync(next, name, { flush: true });
    renameSync(next, join(this.#dir, POINTER));
    const dir = openSync(this.#dir, "r");
    fsyncSync(dir);
    closeSync(dir);
  }

  /** Its transaction may still be open: delete the files now, close the handles after the transaction. */
  #discard(env: Opened<D>): void {
    rmSync(join(this.#dir, env.name), { recursive: true, force: true });
    this.#closing.push(new Promise((resolve) => setImmediate(resolve)).then(() => env.root.close()));
  }
}
