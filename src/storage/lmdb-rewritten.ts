import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { RootDatabase } from "lmdb";
import { PrefixdError } from "../errors.ts";
import { isDiskFull, openLmdb } from "./lmdb-file.ts";

/** Names the sub-folder of the environment that counts; absent: `0`. */
const POINTER = "current";
const FIRST = "0";
/** What is kept is small; what a disk must have left for one more. */
const WRITE_BYTES = 1 << 16;

interface Opened<D> {
  readonly name: string;
  readonly root: RootDatabase<unknown, string>;
  readonly databases: D;
}

export interface RewrittenLmdbOptions<D> {
  readonly dir: string;
  /** Named databases at most. */
  readonly maxDbs: number;
  readonly databases: (root: RootDatabase<unknown, string>) => D;
  /** Names the store in errors. */
  readonly what: string;
}

/**
 * A small LMDB environment that can be written anew without a part of it. Every call is synchronous and blocks on the disk.
 *
 *   DIR/current   name of the environment that counts
 *   DIR/0, 1...   environments; only one is left when nothing is going on
 *
 * LMDB leaves the bytes of what was deleted in its free pages. So `rewrite` copies what stays into a new environment and moves the
 * pointer: the rename is the commit. It happens inside a write transaction of the old environment, and every write looks at the
 * pointer inside its own, so that none is lost to the copy, from whichever process it comes.
 */
export class RewrittenLmdb<D> {
  readonly #options: RewrittenLmdbOptions<D>;
  readonly #dir: string;
  readonly #closing: Promise<void>[] = [];
  #env: Opened<D>;

  constructor(options: RewrittenLmdbOptions<D>) {
    this.#options = options;
    this.#dir = options.dir;
    mkdirSync(this.#dir, { recursive: true });
    this.#env = this.#open(this.#pointer());
    // What a crash left of a copy that was not finished, or of the environment before it.
    this.#write((env) => {
      for (const entry of readdirSync(this.#dir)) if (entry !== env.name && entry !== POINTER) rmSync(join(this.#dir, entry), { recursive: true, force: true });
    });
  }

  read(): D {
    this.#follow();
    this.#env.root.resetReadTxn();
    return this.#env.databases;
  }

  /** One transaction, fsynced: all of it, or, when it throws, nothing. Throws `store_full`. */
  write<T>(action: (databases: D) => T): T {
    return this.#write(({ databases }) => action(databases));
  }

  /** `copy` brings what stays from the old environment into the new one; when it throws, the old one stays. Throws `store_full`. */
  rewrite<T>(copy: (old: D, fresh: D) => T): T {
    return this.#write((old) => {
      const fresh = this.#open(String(Number(old.name) + 1));
      let result: T;
      try {
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
    await Promise.all([this.#env.root.close(), ...this.#closing]);
  }

  #open(name: string): Opened<D> {
    // Zeroed pages: another's could hold what was to be gone.
    const root = openLmdb<unknown>(join(this.#dir, name), { encoding: "json", maxDbs: this.#options.maxDbs, noMemInit: false });
    return { name, root, databases: this.#options.databases(root) };
  }

  #write<T>(action: (env: Opened<D>) => T): T {
    for (;;) {
      this.#follow();
      const env = this.#env;
      try {
        const result = env.root.transactionSync(() => (this.#pointer() === env.name ? { value: action(env) } : null));
        if (result !== null) return result.value;
      } catch (error) {
        throw isDiskFull(error, join(this.#dir, env.name), WRITE_BYTES) ? new PrefixdError("store_full", `The disk of the ${this.#options.what} is full.`, { cause: error }) : error;
      }
    }
  }

  /** Another process may have moved the pointer. */
  #follow(): void {
    const name = this.#pointer();
    if (name === this.#env.name) return;
    this.#closing.push(this.#env.root.close());
    this.#env = this.#open(name);
  }

  #pointer(): string {
    const file = join(this.#dir, POINTER);
    return existsSync(file) ? readFileSync(file, "utf8") : FIRST;
  }

  #movePointer(name: string): void {
    const next = join(this.#dir, `${POINTER}.${name}`);
    writeFileSync(next, name, { flush: true });
    renameSync(next, join(this.#dir, POINTER));
    const dir = openSync(this.#dir, "r");
    fsyncSync(dir);
    closeSync(dir);
  }

  /** Its transaction may still be open: the files go now, their handles with the transaction's end. */
  #discard(env: Opened<D>): void {
    rmSync(join(this.#dir, env.name), { recursive: true, force: true });
    this.#closing.push(new Promise((resolve) => setImmediate(resolve)).then(() => env.root.close()));
  }
}
