import type { PrefixdError } from "../../src/errors.ts";
import { MAX_USER_KEYS, tooManyKeys } from "../../src/users/api-key.ts";
import { ChangeListeners } from "../../src/users/change-listeners.ts";
import { deletionHash, type Deletion, type DeletionPage } from "../../src/users/deletions.ts";
import {
  patchedUser,
  type PatchedUser,
  type RemovedUser,
  type UsageDays,
  type UsageRange,
  type UserPatch,
  type UserStore,
} from "../../src/users/store.ts";
import type { ApiKeyRecord, UsageRow, UsageSums, User } from "../../src/users/types.ts";
import {
  addCounts,
  compare,
  endOfDays,
  toCounts,
  toUsageSums,
  usageRowName,
  usageRowNames,
} from "../../src/users/usage-counts.ts";
import { noSuchUser, userExists } from "../../src/users/user-id.ts";

/** Users in Maps. */
export class FakeUserStore implements UserStore {
  readonly users = new Map<string, User>();
  readonly keys = new Map<string, ApiKeyRecord>();
  readonly rows: UsageRow[] = [];
  readonly deletions = new Map<string, string>();
  readonly #changes = new ChangeListeners();
  /** Makes every call fail, like a store that is away. */
  down: PrefixdError | null = null;

  async createUser(user: User): Promise<void> {
    this.#check();
    if (this.users.has(user.id)) throw userExists();
    this.users.set(user.id, user);
  }

  async getUser(id: string): Promise<User | null> {
    this.#check();
    return this.users.get(id) ?? null;
  }

  async missingUsers(ids: readonly string[]): Promise<string[]> {
    this.#check();
    return ids.filter((id) => !this.users.has(id));
  }

  async listUsers({ after, limit }: { after?: string; limit: number }): Promise<User[]> {
    this.#check();
    const ids = [...this.users.keys()].sort().filter((id) => after === undefined || id > after);
    return ids.slice(0, limit).map((id) => this.#get(id));
  }

  async patchUser(id: string, patch: UserPatch, updatedAt: string): Promise<PatchedUser> {
    const before = this.#get(id);
    const user = patchedUser(before, patch, updatedAt);
    this.users.set(id, user);
    this.#changes.tell(id);
    return { before, user };
  }

  async putKey(key: ApiKeyRecord): Promise<void> {
    this.#get(key.user);
    if ((await this.listKeys(key.user)).length >= MAX_USER_KEYS) throw tooManyKeys();
    this.keys.set(key.id, key);
    this.#changes.tell(key.user);
  }

  async findKey(keyId: string): Promise<ApiKeyRecord | null> {
    this.#check();
    return this.keys.get(keyId) ?? null;
  }

  async listKeys(user: string): Promise<ApiKeyRecord[]> {
    this.#check();
    return [...this.keys.values()].filter((key) => key.user === user);
  }

  async deleteKey(user: string, keyId: string): Promise<boolean> {
    this.#check();
    const deleted = this.keys.get(keyId)?.user === user && this.keys.delete(keyId);
    if (deleted) this.deletions.set(deletionHash("key", keyId), new Date().toISOString());
    this.#changes.tell(user);
    return deleted;
  }

  async deleteUser(id: string): Promise<RemovedUser> {
    this.#get(id);
    const keys = await this.listKeys(id);
    for (const key of keys) this.keys.delete(key.id);
    this.users.delete(id);
    this.deletions.set(deletionHash("user", id), new Date().toISOString());
    this.#changes.tell(id);
    return { keys: keys.length, usageRows: 0 };
  }

  async addUsage(rows: readonly UsageRow[]): Promise<void> {
    this.rows.push(...rows);
  }

  async usage(user: string, { limit, ...range }: UsageRange & { limit: number }): Promise<UsageRow[]> {
    this.#check();
    const { start, inclusive, end } = usageRowNames(range);
    return this.rows
      .map((row) => ({ row, name: usageRowName(row) }))
      .filter(({ row, name }) => row.user === user && (inclusive ? name >= start : name > start) && name < end)
      .sort((a, b) => compare(a.name, b.name))
      .slice(0, limit)
      .map(({ row }) => row);
  }

  async usageUsers({ after = "", limit }: { after?: string; limit: number }): Promise<string[]> {
    this.#check();
    return [...new Set(this.rows.map(({ user }) => user))]
      .filter((id) => id > after)
      .sort(compare)
      .slice(0, limit);
  }

  async usageSums(user: string, { from = "", ...to }: UsageDays): Promise<UsageSums> {
    this.#check();
    const sums: number[] = [];
    for (const row of this.rows)
      if (row.user === user && row.day >= from && row.day < endOfDays(to)) addCounts(sums, toCounts(row));
    return toUsageSums(sums);
  }

  async deletedAt(hashes: readonly string[]): Promise<(string | null)[]> {
    return hashes.map((hash) => this.deletions.get(hash) ?? null);
  }

  async noteDeletions(deletions: readonly Deletion[]): Promise<void> {
    for (const { hash, at } of deletions) if (at > (this.deletions.get(hash) ?? "")) this.deletions.set(hash, at);
  }

  async listDeletions(): Promise<DeletionPage> {
    return { found: [...this.deletions].map(([hash, at]) => ({ hash, at })), next: null };
  }

  onChange(listener: (user: string) => void): () => void {
    return this.#changes.add(listener);
  }

  async ping(): Promise<void> {
    this.#check();
  }

  async close(): Promise<void> {}

  #get(id: string): User {
    this.#check();
    const user = this.users.get(id);
    if (user === undefined) throw noSuchUser();
    return user;
  }

  #check(): void {
    if (this.down) throw this.down;
  }
}
