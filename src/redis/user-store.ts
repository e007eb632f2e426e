import { randomUUID } from "node:crypto";
import { PrefixdError } from "../errors.ts";
import { accessRedis, guarded, type RedisAccess, type RedisConnection, type RedisUse } from "./connection.ts";
import { hasExpired, MAX_USER_KEYS, tooManyKeys } from "../users/api-key.ts";
import { ChangeListeners } from "../users/change-listeners.ts";
import { RedisUsage } from "./usage.ts";
import { RedisUserKeys } from "./user-keys.ts";
import {
  CREATE_USER,
  DELETE_KEY,
  DELETE_USER_REST,
  LIST,
  NOTE_DELETIONS,
  PUT_KEY,
  REPLACE_USER,
} from "./user-scripts.ts";
import { UserSweep } from "./user-sweep.ts";
import { deletionHash, forgottenBefore, type Deletion, type DeletionPage } from "../users/deletions.ts";
import {
  patchedUser,
  type PatchedUser,
  type RemovedUser,
  type UsageDays,
  type UsageRange,
  type UserPatch,
  type UserStore,
} from "../users/store.ts";
import type { ApiKeyRecord, UsageRow, UsageSums, User } from "../users/types.ts";
import { compare } from "../users/usage-counts.ts";
import { noSuchUser, userExists } from "../users/user-id.ts";

export type RedisUserOptions = RedisAccess & {
  /** Prefix of all keys. Default `prefixd`. */
  readonly namespace?: string;
  /**
   * Milliseconds after which an id on the list of users without a user counts as a crash's leftover. Default 60,000.
   */
  readonly sweepMs?: number;
};

/** Users shared by replicas. Resolves and throws as `openRedis`. */
export async function openRedisUserStore(options: RedisUserOptions): Promise<UserStore> {
  return new RedisUserStore(await accessRedis(options), options);
}

type Announcement = [channel: string, message: string];

/** Concurrent look-ups. */
const LOOK_UPS = 100;
/** Seconds that a key's index entry lives without its key. */
const UNFINISHED_KEY_S = 60;
/** Deletions looked at in one page, about. */
const DELETIONS_PAGE = 1000;
/** Attempts of a patch that competes with other replicas' patches. */
const PATCH_TURNS = 64;

class RedisUserStore implements UserStore {
  readonly #connection: RedisConnection;
  readonly #release: () => void;
  readonly #keys: RedisUserKeys;
  readonly #origin = randomUUID();
  readonly #changes = new ChangeListeners();
  readonly #usage: RedisUsage;
  readonly #sweep: UserSweep;

  constructor({ redis, release }: RedisUse, { namespace = "prefixd", sweepMs = 60_000 }: RedisUserOptions) {
    const keys = new RedisUserKeys(namespace);
    this.#connection = redis;
    this.#release = release;
    this.#keys = keys;
    this.#usage = new RedisUsage(redis, keys);
    this.#sweep = new UserSweep(redis, keys, sweepMs);
    redis.subscribe(keys.changes, (message) => this.#heard(message));
  }

  createUser(user: User): Promise<void> {
    return this.#change(user.id, async (announce) => {
      const { client } = this.#connection;
      // List the user before creating it, so that a crash leaves no user unlisted. List it again afterwards: the
      // removal of a previous user, or a list that saw the id without a user, may just have removed it.
      await client.zadd(this.#keys.users, 0, user.id);
      const created = await this.#connection.run(
        CREATE_USER,
        [this.#keys.user(user.id)],
        [JSON.stringify(user), ...announce],
      );
      await client.zadd(this.#keys.users, 0, user.id);
      if (created === 0) throw userExists();
    });
  }

  getUser(id: string): Promise<User | null> {
    return guarded(async () => parse<User>(await this.#connection.client.get(this.#keys.user(id))));
  }

  missingUsers(ids: readonly string[]): Promise<string[]> {
    return guarded(async () => {
      const missing: string[] = [];
      for (let at = 0; at < ids.length; at += LOOK_UPS) {
        const some = ids.slice(at, at + LOOK_UPS);
        const found = await Promise.all(some.map((id) => this.#connection.client.exists(this.#keys.user(id))));
        missing.push(...some.filter((_, i) => found[i] === 0));
      }
      return missing;
    });
  }

  listUsers({ after, limit }: { after?: string; limit: number }): Promise<User[]> {
    return guarded(async () => {
      const { client } = this.#connection;
      const users: User[] = [];
      let last = after;
      while (users.length < limit) {
        const wanted = limit - users.length;
        const ids = await client.zrangebylex(
          this.#keys.users,
          last === undefined ? "-" : `(${last}`,
          "+",
          "LIMIT",
          0,
          wanted,
        );
        const found = await Promise.all(ids.map((id) => client.get(this.#keys.user(id))));
        users.push(...found.flatMap((json) => parse<User>(json) ?? []));
        this.#sweep.suspect(ids.filter((_, i) => found[i] === null));
        if (ids.length < wanted) break;
        last = ids.at(-1);
      }
      return users;
    });
  }

  patchUser(id: string, patch: UserPatch, updatedAt: string): Promise<PatchedUser> {
    return this.#change(id, async (announce) => {
      const { bulk } = this.#connection;
      // Suspending takes something away, so it waits for Redis' replicas.
      const takes = patch.suspended === true;
      const commands = takes ? bulk : this.#connection;
      for (let turn = 0; turn < PATCH_TURNS; turn++) {
        const json = await commands.client.get(this.#keys.user(id));
        if (json === null) throw noSuchUser();
        const before = JSON.parse(json) as User;
        const user = patchedUser(before, patch, updatedAt);
        const args = [json, JSON.stringify(user), ...announce];
        if ((await commands.run(REPLACE_USER, [this.#keys.user(id)], args)) !== 1) continue;
        if (takes) await bulk.replicated();
        return { before, user };
      }
      throw new PrefixdError("store_unavailable", "The user keeps being changed; repeat the request.", {
        retryAfter: 1,
      });
    });
  }

  putKey(key: ApiKeyRecord): Promise<void> {
    return this.#change(key.user, async (announce) => {
      const { client } = this.#connection;
      // Let the entry expire unless its key exists, so that a crash does not leave it forever.
      await client.set(this.#keys.key(key.id), key.user, "EX", UNFINISHED_KEY_S);
      const keys = [this.#keys.user(key.user), this.#keys.keys(key.user)];
      const args = [key.id, JSON.stringify(key), MAX_USER_KEYS, ...announce];
      let put = await this.#connection.run(PUT_KEY, keys, args);
      if (put === -1 && (await this.#dropExpired(key.user, new Date(key.createdAt), announce)))
        put = await this.#connection.run(PUT_KEY, keys, args);
      if (put === 1 && (await client.persist(this.#keys.key(key.id))) === 1) return;
      await client.del(this.#keys.key(key.id));
      // The user does not exist, or was removed meanwhile.
      throw put === -1 ? tooManyKeys() : noSuchUser();
    });
  }

  findKey(keyId: string): Promise<ApiKeyRecord | null> {
    return guarded(async () => {
      const user = await this.#connection.client.get(this.#keys.key(keyId));
      return user === null
        ? null
        : parse<ApiKeyRecord>(await this.#connection.client.hget(this.#keys.keys(user), keyId));
    });
  }

  listKeys(user: string): Promise<ApiKeyRecord[]> {
    return guarded(async () => {
      const records = (await this.#connection.client.hvals(this.#keys.keys(user))).flatMap(
        (json) => parse<ApiKeyRecord>(json) ?? [],
      );
      return records.sort((a, b) => compare(a.createdAt, b.createdAt) || compare(a.id, b.id));
    });
  }

  deleteKey(user: string, keyId: string): Promise<boolean> {
    return this.#change(user, async (announce) => {
      const removed = await this.#dropKey(user, keyId, announce, { note: true });
      await this.#connection.bulk.replicated();
      return removed;
    });
  }

  deleteUser(id: string, { keepUsage }: { keepUsage: boolean }): Promise<RemovedUser> {
    return this.#change(id, async (announce) => {
      const { bulk } = this.#connection;
      const { client } = bulk;
      // Listed before the record goes, so that a crash leaves no usage that is on no list.
      if (keepUsage) await bulk.run(LIST, [this.#keys.usageKept], [id]);
      // The index before the keys: after a crash the keys still lead to their entries, while entries without keys could
      // not be found. The record between the two: from then on no keys are added.
      await this.#dropIndex(await client.hkeys(this.#keys.keys(id)));
      // Before the record, so that no crash leaves a user who is gone and not known to be.
      if ((await client.exists(this.#keys.user(id))) === 1)
        await this.#note([{ hash: deletionHash("user", id), at: new Date().toISOString() }]);
      const there = await client.del(this.#keys.user(id));
      await this.#dropIndex(await client.hkeys(this.#keys.keys(id)));
      const names = ["keys", "usage", "usageRows", "usageDays", "flushes", "tokens"] as const;
      const [usageRows, keys] = (await bulk.run(
        DELETE_USER_REST,
        names.map((name) => this.#keys[name](id)),
        [keepUsage ? "keep" : "drop", ...announce],
      )) as [number, number];
      if (!keepUsage) await client.zrem(this.#keys.usageKept, id);
      await client.zrem(this.#keys.users, id);
      // The user was created again in the meantime.
      if ((await client.exists(this.#keys.user(id))) === 1) await client.zadd(this.#keys.users, 0, id);
      await bulk.replicated();
      if (there === 0) throw noSuchUser();
      return { keys, usageRows };
    });
  }

  addUsage(rows: readonly UsageRow[]): Promise<void> {
    return guarded(() => this.#usage.add(rows));
  }

  usage(user: string, options: UsageRange & { limit: number }): Promise<UsageRow[]> {
    return guarded(() => this.#usage.read(user, options));
  }

  usageUsers(options: { after?: string; limit: number }): Promise<string[]> {
    return guarded(() => this.#usage.users(options));
  }

  usageSums(user: string, days: UsageDays): Promise<UsageSums> {
    return guarded(() => this.#usage.sums(user, days));
  }

  deletedAt(hashes: readonly string[]): Promise<(string | null)[]> {
    return guarded(() =>
      Promise.all(hashes.map(async (hash) => timeOf(await this.#connection.client.zscore(this.#keys.deletions, hash)))),
    );
  }

  noteDeletions(deletions: readonly Deletion[]): Promise<void> {
    return guarded(() => this.#note(deletions));
  }

  listDeletions(from: string | null): Promise<DeletionPage> {
    return guarded(async () => {
      const { client } = this.#connection;
      const [next, parts] = await client.zscan(this.#keys.deletions, from ?? "0", "COUNT", DELETIONS_PAGE);
      const found: Deletion[] = [];
      for (let i = 0; i < parts.length; i += 2) found.push({ hash: parts[i]!, at: timeOf(parts[i + 1]!)! });
      return { found, next: next === "0" ? null : next };
    });
  }

  onChange(listener: (user: string) => void): () => void {
    return this.#changes.add(listener);
  }

  ping(): Promise<void> {
    return guarded(async () => void (await this.#connection.client.exists(this.#keys.users)));
  }

  async close(): Promise<void> {
    this.#changes.clear();
    this.#sweep.close();
    await this.#usage.close();
    this.#release();
  }

  async #note(deletions: readonly Deletion[]): Promise<void> {
    const pairs = deletions.flatMap(({ hash, at }) => [Date.parse(at), hash]);
    // Its first write needs no memory, so it works in a Redis that is full.
    await this.#connection.bulk.run(NOTE_DELETIONS, [this.#keys.deletions], [forgottenBefore().getTime(), ...pairs]);
  }

  async #dropKey(
    user: string,
    keyId: string,
    announce: Announcement,
    { note = false }: { note?: boolean } = {},
  ): Promise<boolean> {
    // Drop the index entry first: after a crash the key no longer works, and repeating the call or removing the user
    // deletes the rest.
    const { bulk } = this.#connection;
    if ((await bulk.client.hexists(this.#keys.keys(user), keyId)) === 1) {
      await this.#dropIndex([keyId]);
      if (note) await this.#note([{ hash: deletionHash("key", keyId), at: new Date().toISOString() }]);
    }
    return (await bulk.run(DELETE_KEY, [this.#keys.keys(user)], [keyId, ...announce])) === 1;
  }

  /** false: none had expired. */
  async #dropExpired(user: string, now: Date, announce: Announcement): Promise<boolean> {
    const expired = (await this.listKeys(user)).filter((key) => hasExpired(key, now));
    for (const { id } of expired) await this.#dropKey(user, id, announce);
    return expired.length > 0;
  }

  async #dropIndex(keyIds: readonly string[]): Promise<void> {
    await Promise.all(keyIds.map((id) => this.#connection.bulk.client.del(this.#keys.key(id))));
  }

  /** Runs a change that announces itself to the other replicas by these arguments of its script. */
  #change<T>(user: string, work: (announce: Announcement) => Promise<T>): Promise<T> {
    return this.#changes.after(
      user,
      guarded(() => work([this.#keys.changes, JSON.stringify([this.#origin, user])])),
    );
  }

  #heard(message: string): void {
    let parts: unknown;
    try {
      parts = JSON.parse(message);
    } catch {
      // Ignore malformed messages; anyone may publish on the channel.
      return;
    }
    if (Array.isArray(parts) && parts[0] !== this.#origin && typeof parts[1] === "string") this.#changes.tell(parts[1]);
  }
}

function timeOf(milliseconds: string | null): string | null {
  return milliseconds === null ? null : new Date(Number(milliseconds)).toISOString();
}

function parse<T>(json: string | null): T | null {
  return json === null ? null : (JSON.parse(json) as T);
}
