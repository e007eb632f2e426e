import { join } from "node:path";
import { JsonTable } from "./json-table.ts";
import { RewrittenLmdb } from "./rewritten.ts";
import { UserContents } from "./user-contents.ts";
import { hasExpired, MAX_USER_KEYS, tooManyKeys } from "../users/api-key.ts";
import { deletionHash, forgottenBefore, type Deletion, type DeletionPage } from "../users/deletions.ts";
import {
  patchedUser,
  type PatchedUser,
  type RemovedUser,
  type UsageDays,
  type UsageRange,
  type UserPatch,
} from "../users/store.ts";
import type { ApiKeyRecord, UsageRow, UsageSums, User } from "../users/types.ts";
import {
  addCounts,
  compare,
  endOfDays,
  toCounts,
  toUsageRow,
  toUsageSums,
  usageRowName,
  usageRowNames,
} from "../users/usage-counts.ts";
import { isBuiltInUser, noSuchUser, userExists } from "../users/user-id.ts";

export interface LmdbUserOptions {
  /** The store's folder; users are in its sub-folder `users`. */
  readonly dir: string;
}

interface Environment {
  /** id -> User */
  readonly users: JsonTable<User>;
  /** key id -> ApiKeyRecord */
  readonly keys: JsonTable<ApiKeyRecord>;
  /** user/key id -> true */
  readonly userKeys: JsonTable<true>;
  /** user/row name -> UsageCounts */
  readonly usage: JsonTable<readonly number[]>;
  /** user/day -> UsageCounts summed over its rows; empty in a file that predates this table */
  readonly usageDays: JsonTable<readonly number[]>;
  /** deletion hash -> ISO time */
  readonly deletions: JsonTable<string>;
}

/** Deletions in a page. */
const DELETIONS_PAGE = 1000;

/**
 * Users in their own LMDB environment, which is rewritten without a removed user. Every call is synchronous and blocks
 * on the disk, so it runs on a thread.
 */
export class LmdbUserTables {
  readonly #file: RewrittenLmdb<Environment>;

  constructor(options: LmdbUserOptions) {
    this.#file = new RewrittenLmdb({
      dir: join(options.dir, "users"),
      maxDbs: 6,
      what: "user store",
      databases: (root) => ({
        users: new JsonTable(root, "users"),
        keys: new JsonTable(root, "keys"),
        userKeys: new JsonTable(root, "user-keys"),
        usage: new JsonTable(root, "usage"),
        usageDays: new JsonTable(root, "usage-days"),
        deletions: new JsonTable(root, "deletions"),
      }),
      contents: () => new UserContents(),
    });
  }

  createUser(user: User): void {
    this.#file.write((env) => {
      if (env.users.get(user.id) !== undefined) throw userExists();
      env.users.put(user.id, user);
    });
  }

  getUser(id: string): User | null {
    return this.#file.read().users.get(id) ?? null;
  }

  /** The ids without a user, in order. */
  missingUsers(ids: readonly string[]): string[] {
    const { users } = this.#file.read();
    return ids.filter((id) => users.get(id) === undefined);
  }

  listUsers({ after, limit }: { after?: string; limit: number }): User[] {
    const { users } = this.#file.read();
    const range = users.entries(after === undefined ? { limit } : { start: after, exclusiveStart: true, limit });
    return [...range].map(({ value }) => value);
  }

  patchUser(id: string, patch: UserPatch, updatedAt: string): PatchedUser {
    return this.#file.write((env) => {
      const before = existing(env, id);
      const user = patchedUser(before, patch, updatedAt);
      env.users.put(id, user);
      return { before, user };
    });
  }

  putKey(key: ApiKeyRecord): void {
    this.#file.write((env) => {
      existing(env, key.user);
      makeRoomForKey(env, key);
      env.keys.put(key.id, key);
      env.userKeys.put(`${key.user}/${key.id}`, true);
    });
  }

  findKey(keyId: string): ApiKeyRecord | null {
    return this.#file.read().keys.get(keyId) ?? null;
  }

  listKeys(user: string): ApiKeyRecord[] {
    const env = this.#file.read();
    const records = keyIds(env, user).flatMap((id) => env.keys.get(id) ?? []);
    return records.sort((a, b) => compare(a.createdAt, b.createdAt) || compare(a.id, b.id));
  }

  deleteKey(user: string, keyId: string): boolean {
    return this.#file.write((env) => {
      if (env.keys.get(keyId)?.user !== user) return false;
      removeKey(env, user, keyId);
      noteDeletion(env, { hash: deletionHash("key", keyId), at: new Date().toISOString() });
      return true;
    });
  }

  deleteUser(id: string, { keepUsage }: { keepUsage: boolean }): RemovedUser {
    return this.#file.rewrite((old, fresh) => {
      existing(old, id);
      const removed = { keys: keyIds(old, id).length, usageRows: 0 };
      for (const { key, value } of old.users.entries()) if (key !== id) fresh.users.put(key, value);
      for (const { key, value } of old.keys.entries()) if (value.user !== id) fresh.keys.put(key, value);
      for (const { key, value } of old.userKeys.entries())
        if (!key.startsWith(`${id}/`)) fresh.userKeys.put(key, value);
      for (const { key, value } of old.usage.entries()) {
        if (keepUsage || !key.startsWith(`${id}/`)) fresh.usage.put(key, value);
        else removed.usageRows++;
      }
      for (const { key, value } of old.usageDays.entries())
        if (keepUsage || !key.startsWith(`${id}/`)) fresh.usageDays.put(key, value);
      const forgotten = forgottenBefore().toISOString();
      for (const { key, value } of old.deletions.entries()) if (value >= forgotten) fresh.deletions.put(key, value);
      noteDeletion(fresh, { hash: deletionHash("user", id), at: new Date().toISOString() });
      return removed;
    });
  }

  addUsage(rows: readonly UsageRow[]): void {
    this.#file.write((env) => {
      sumMissingDays(env);
      for (const row of rows) {
        if (!isBuiltInUser(row.user) && env.users.get(row.user) === undefined) continue;
        add(env.usage, `${row.user}/${usageRowName(row)}`, toCounts(row));
        add(env.usageDays, `${row.user}/${row.day}`, toCounts(row));
      }
    });
  }

  usage(user: string, { limit, ...range }: UsageRange & { limit: number }): UsageRow[] {
    const { start, inclusive, end } = usageRowNames(range);
    if (start >= end) return [];
    const found = this.#file.read().usage.entries({
      start: `${user}/${start}`,
      exclusiveStart: !inclusive,
      end: `${user}/${end}`,
      limit,
    });
    return [...found].map(({ key, value }) => toUsageRow(user, key.slice(user.length + 1), value));
  }

  usageUsers({ after = "", limit }: { after?: string; limit: number }): string[] {
    const { usage } = this.#file.read();
    const found: string[] = [];
    for (let last = after; found.length < limit; last = found.at(-1)!) {
      const next = nextUser(usage, last);
      if (next === null) break;
      found.push(next);
    }
    return found;
  }

  usageSums(user: string, days: UsageDays): UsageSums {
    if (areDaysMissing(this.#file.read())) this.#file.write(sumMissingDays);
    const found = this.#file
      .read()
      .usageDays.entries({ start: `${user}/${days.from ?? ""}`, end: `${user}/${endOfDays(days)}` });
    const sums: number[] = [];
    for (const { value } of found) addCounts(sums, value);
    return toUsageSums(sums);
  }

  deletedAt(hashes: readonly string[]): (string | null)[] {
    const { deletions } = this.#file.read();
    return hashes.map((hash) => deletions.get(hash) ?? null);
  }

  noteDeletions(deletions: readonly Deletion[]): void {
    this.#file.write((env) => {
      for (const deletion of deletions) noteDeletion(env, deletion);
    });
  }

  listDeletions(from: string | null): DeletionPage {
    const range = this.#file.read().deletions.entries({
      limit: DELETIONS_PAGE,
      ...(from === null ? {} : { start: from, exclusiveStart: true }),
    });
    const found = [...range].map(({ key, value }) => ({ hash: key, at: value }));
    return { found, next: found.length < DELETIONS_PAGE ? null : found.at(-1)!.hash };
  }

  ping(): void {
    this.#file.read().users.get("-");
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

function existing(env: Environment, id: string): User {
  const user = env.users.get(id);
  if (user === undefined) throw noSuchUser();
  return user;
}

/** Throws `too_many_keys`. */
function makeRoomForKey(env: Environment, { user, createdAt }: ApiKeyRecord): void {
  const ids = keyIds(env, user);
  if (ids.length < MAX_USER_KEYS) return;
  const expired = ids.filter((id) => {
    const key = env.keys.get(id);
    return key !== undefined && hasExpired(key, new Date(createdAt));
  });
  if (ids.length - expired.length >= MAX_USER_KEYS) throw tooManyKeys();
  for (const id of expired) removeKey(env, user, id);
}

function removeKey(env: Environment, user: string, id: string): void {
  env.keys.remove(id);
  env.userKeys.remove(`${user}/${id}`);
}

function noteDeletion({ deletions }: Environment, { hash, at }: Deletion): void {
  if (at > (deletions.get(hash) ?? "")) deletions.put(hash, at);
}

function keyIds(env: Environment, user: string): string[] {
  return [...env.userKeys.keys({ start: `${user}/`, end: `${user}0` })].map((key) => key.slice(user.length + 1));
}

/**
 * The first user after `last` with rows; a look-up or a few. Rows are in order of `user/`, in which `ann-2/` comes before
 * `ann/`: an id found may be preceded by one that it begins with.
 */
function nextUser(usage: JsonTable<readonly number[]>, last: string): string | null {
  const from = (start: string): string | null => {
    const { value: key } = usage.keys({ start, limit: 1 }).next() as { value?: string };
    return key === undefined ? null : key.slice(0, key.indexOf("/"));
  };
  for (let id = from(`${last}\0`); id !== null; id = from(`${id}0`)) {
    if (id <= last) continue;
    for (const { index } of id.matchAll(/[-.]/g)) {
      const shorter = id.slice(0, index);
      if (shorter > last && from(`${shorter}/`) === shorter) return shorter;
    }
    return id;
  }
  return null;
}

function add(table: JsonTable<readonly number[]>, key: string, counts: readonly number[]): void {
  const sums = [...(table.get(key) ?? [])];
  addCounts(sums, counts);
  table.put(key, sums);
}

function areDaysMissing({ usage, usageDays }: Environment): boolean {
  return isEmpty(usageDays) && !isEmpty(usage);
}

function isEmpty(table: JsonTable<unknown>): boolean {
  return table.keys({ limit: 1 }).next().done === true;
}

/** Computes the sums by day in a file that predates them. */
function sumMissingDays(env: Environment): void {
  if (!areDaysMissing(env)) return;
  for (const { key, value } of env.usage.entries()) {
    const [user, day] = key.split("/");
    add(env.usageDays, `${user}/${day}`, value);
  }
}
