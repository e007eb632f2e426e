import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Database, RootDatabase } from "lmdb";
import { PrefixdError } from "../errors.ts";
import { isDiskFull, openLmdb } from "../storage/lmdb-file.ts";
import type { RemovedUser, UserPatch } from "./store.ts";
import type { ApiKeyRecord, UsageRow, User } from "./types.ts";
import { compare, toCounts, toUsageRow } from "./usage-counts.ts";
import { isBuiltInUser } from "./user-id.ts";

export interface LmdbUserOptions {
  /** The store's folder; users live in its sub-folder `users`. */
  readonly dir: string;
}

/** Names the sub-folder of the environment that counts; absent: `0`. */
const POINTER = "current";
const FIRST = "0";
const DAY = "2026-01-31";
/** Users and keys are small; what a disk must have left for one more. */
const WRITE_BYTES = 1 << 16;

interface Environment {
  readonly name: string;
  readonly root: RootDatabase<unknown, string>;
  /** id -> User */
  readonly users: Database<User, string>;
  /** key id -> ApiKeyRecord */
  readonly keys: Database<ApiKeyRecord, string>;
  /** user/key id -> true */
  readonly userKeys: Database<true, string>;
  /** user/day/ or user/day/=prefix -> UsageCounts */
  readonly usage: Database<readonly number[], string>;
}

/**
 * Users in an LMDB environment of their own. Every call is synchronous and blocks on the disk, so it runs on a thread.
 *
 *   users/current   name of the environment that counts
 *   users/0, 1...   environments; only one is left when nothing is going on
 *
 * LMDB leaves the bytes of what was deleted in its free pages. So removing a user copies all but that user into a new environment
 * and moves the pointer: the rename is the commit. It happens inside a write transaction of the old environment, and every write
 * looks at the pointer inside its own, so that none is lost to the copy, from whichever process it comes.
 */
export class LmdbUserTables {
  readonly #dir: string;
  readonly #closing: Promise<void>[] = [];
  #env: Environment;

  constructor(options: LmdbUserOptions) {
    this.#dir = join(options.dir, "users");
    mkdirSync(this.#dir, { recursive: true });
    this.#env = openEnvironment(this.#dir, this.#pointer());
    // What a crash left of a copy that was not finished, or of the environment before it.
    this.#write((env) => {
      for (const entry of readdirSync(this.#dir)) if (entry !== env.name && entry !== POINTER) rmSync(join(this.#dir, entry), { recursive: true, force: true });
    });
  }

  createUser(user: User): void {
    this.#write((env) => {
      if (env.users.get(user.id) !== undefined) throw new PrefixdError("user_exists", "There is a user of this id already.");
      env.users.putSync(user.id, user);
    });
  }

  getUser(id: string): User | null {
    return this.#read().users.get(id) ?? null;
  }

  listUsers({ after, limit }: { after?: string; limit: number }): User[] {
    const { users } = this.#read();
    const range = users.getRange(after === undefined ? { limit } : { start: after, exclusiveStart: true, limit });
    return [...range].map(({ value }) => value);
  }

  patchUser(id: string, patch: UserPatch, updatedAt: string): User {
    return this.#write((env) => {
      const old = existing(env, id);
      const user: User = { ...old, weight: patch.weight ?? old.weight, limits: { ...old.limits, ...patch.limits }, updatedAt };
      env.users.putSync(id, user);
      return user;
    });
  }

  putKey(key: ApiKeyRecord): void {
    this.#write((env) => {
      existing(env, key.user);
      env.keys.putSync(key.id, key);
      env.userKeys.putSync(`${key.user}/${key.id}`, true);
    });
  }

  findKey(keyId: string): ApiKeyRecord | null {
    return this.#read().keys.get(keyId) ?? null;
  }

  listKeys(user: string): ApiKeyRecord[] {
    const env = this.#read();
    const records = keyIds(env, user).flatMap((id) => env.keys.get(id) ?? []);
    return records.sort((a, b) => compare(a.createdAt, b.createdAt) || compare(a.id, b.id));
  }

  deleteKey(user: string, keyId: string): boolean {
    return this.#write((env) => {
      if (env.keys.get(keyId)?.user !== user) return false;
      env.keys.removeSync(keyId);
      env.userKeys.removeSync(`${user}/${keyId}`);
      return true;
    });
  }

  deleteUser(id: string, { keepUsage }: { keepUsage: boolean }): RemovedUser {
    return this.#write((old) => {
      existing(old, id);
      const fresh = openEnvironment(this.#dir, String(Number(old.name) + 1));
      const removed = { keys: keyIds(old, id).length, usageRows: 0 };
      try {
        fresh.root.transactionSync(() => {
          for (const { key, value } of old.users.getRange()) if (key !== id) fresh.users.putSync(key, value);
          for (const { key, value } of old.keys.getRange()) if (value.user !== id) fresh.keys.putSync(key, value);
          for (const { key, value } of old.userKeys.getRange()) if (!key.startsWith(`${id}/`)) fresh.userKeys.putSync(key, value);
          for (const { key, value } of old.usage.getRange()) {
            if (keepUsage || !key.startsWith(`${id}/`)) fresh.usage.putSync(key, value);
            else removed.usageRows++;
          }
        });
        this.#movePointer(fresh.name);
      } catch (error) {
        this.#discard(fresh);
        throw error;
      }
      this.#env = fresh;
      this.#discard(old);
      return removed;
    });
  }

  addUsage(rows: readonly UsageRow[]): void {
    this.#write((env) => {
      for (const row of rows) {
        if (!isBuiltInUser(row.user) && env.users.get(row.user) === undefined) continue;
        const key = `${row.user}/${row.day}/${row.prefix === null ? "" : `=${row.prefix}`}`;
        const old = env.usage.get(key);
        env.usage.putSync(key, toCounts(row).map((count, i) => count + (old?.[i] ?? 0)));
      }
    });
  }

  usage(user: string, { from, to }: { from?: string; to?: string }): UsageRow[] {
    // "0" is the character after "/".
    const range = this.#read().usage.getRange({ start: `${user}/${from ?? ""}`, end: to === undefined ? `${user}0` : `${user}/${to}0` });
    return [...range].map(({ key, value }) => {
      const rest = key.slice(user.length + 1);
      const [day, prefix] = [rest.slice(0, DAY.length), rest.slice(DAY.length + 1)];
      return toUsageRow(user, prefix === "" ? null : prefix.slice(1), day, value);
    });
  }

  ping(): void {
    this.#read().users.get("-");
  }

  async close(): Promise<void> {
    await Promise.all([this.#env.root.close(), ...this.#closing]);
  }

  #read(): Environment {
    this.#follow();
    this.#env.root.resetReadTxn();
    return this.#env;
  }

  /** One transaction, fsynced: all of it, or, when it throws, nothing. */
  #write<T>(action: (env: Environment) => T): T {
    for (;;) {
      this.#follow();
      const env = this.#env;
      try {
        const result = env.root.transactionSync(() => (this.#pointer() === env.name ? { value: action(env) } : null));
        if (result !== null) return result.value;
      } catch (error) {
        throw isDiskFull(error, join(this.#dir, env.name), WRITE_BYTES) ? new PrefixdError("store_full", "The disk of the user store is full.", { cause: error }) : error;
      }
    }
  }

  /** Another process may have moved the pointer. */
  #follow(): void {
    const name = this.#pointer();
    if (name === this.#env.name) return;
    this.#closing.push(this.#env.root.close());
    this.#env = openEnvironment(this.#dir, name);
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
  #discard(env: Environment): void {
    rmSync(join(this.#dir, env.name), { recursive: true, force: true });
    this.#closing.push(new Promise((resolve) => setImmediate(resolve)).then(() => env.root.close()));
  }
}

function openEnvironment(dir: string, name: string): Environment {
  // Zeroed pages: another's could hold a user that is gone.
  const root = openLmdb<unknown>(join(dir, name), { encoding: "json", maxDbs: 4, noMemInit: false });
  return {
    name,
    root,
    users: root.openDB({ name: "users", encoding: "json" }),
    keys: root.openDB({ name: "keys", encoding: "json" }),
    userKeys: root.openDB({ name: "user-keys", encoding: "json" }),
    usage: root.openDB({ name: "usage", encoding: "json" }),
  };
}

function existing(env: Environment, id: string): User {
  const user = env.users.get(id);
  if (user === undefined) throw new PrefixdError("user_not_found", "There is no such user.");
  return user;
}

function keyIds(env: Environment, user: string): string[] {
  return [...env.userKeys.getKeys({ start: `${user}/`, end: `${user}0` })].map((key) => key.slice(user.length + 1));
}
