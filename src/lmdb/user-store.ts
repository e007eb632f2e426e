import { WorkerCalls } from "./worker-calls.ts";
import { ChangeListeners } from "../users/change-listeners.ts";
import type { LmdbUserOptions, LmdbUserTables } from "./user-tables.ts";
import type { Deletion, DeletionPage } from "../users/deletions.ts";
import type { PatchedUser, RemovedUser, UsageDays, UsageRange, UserPatch, UserStore } from "../users/store.ts";
import type { ApiKeyRecord, UsageRow, UsageSums, User } from "../users/types.ts";

/**
 * Opens (or creates) the users of an embedded store. Confirmed writes are on disk; a removed user leaves no byte. Other
 * processes may use the folder at the same time, but are not told of changes. Throws `store_unavailable` if it cannot
 * be opened.
 */
export async function openLmdbUserStore(options: LmdbUserOptions): Promise<UserStore> {
  const store = new LmdbUserStore(options);
  await store.ping();
  return store;
}

class LmdbUserStore implements UserStore {
  readonly #tables: WorkerCalls<LmdbUserTables>;
  readonly #changes = new ChangeListeners();

  constructor(options: LmdbUserOptions) {
    this.#tables = new WorkerCalls(new URL("./user-worker", import.meta.url).href, options, "user store");
  }

  createUser(user: User): Promise<void> {
    return this.#changes.after(user.id, this.#tables.call("createUser", user));
  }

  getUser(id: string): Promise<User | null> {
    return this.#tables.call("getUser", id);
  }

  missingUsers(ids: readonly string[]): Promise<string[]> {
    return this.#tables.call("missingUsers", ids);
  }

  listUsers(options: { after?: string; limit: number }): Promise<User[]> {
    return this.#tables.call("listUsers", options);
  }

  patchUser(id: string, patch: UserPatch, updatedAt: string): Promise<PatchedUser> {
    return this.#changes.after(id, this.#tables.call("patchUser", id, patch, updatedAt));
  }

  putKey(key: ApiKeyRecord): Promise<void> {
    return this.#changes.after(key.user, this.#tables.call("putKey", key));
  }

  findKey(keyId: string): Promise<ApiKeyRecord | null> {
    return this.#tables.call("findKey", keyId);
  }

  listKeys(user: string): Promise<ApiKeyRecord[]> {
    return this.#tables.call("listKeys", user);
  }

  deleteKey(user: string, keyId: string): Promise<boolean> {
    return this.#changes.after(user, this.#tables.call("deleteKey", user, keyId));
  }

  deleteUser(id: string, options: { keepUsage: boolean }): Promise<RemovedUser> {
    return this.#changes.after(id, this.#tables.call("deleteUser", id, options));
  }

  addUsage(rows: readonly UsageRow[]): Promise<void> {
    return this.#tables.call("addUsage", rows);
  }

  usage(user: string, options: UsageRange & { limit: number }): Promise<UsageRow[]> {
    return this.#tables.call("usage", user, options);
  }

  usageUsers(options: { after?: string; limit: number }): Promise<string[]> {
    return this.#tables.call("usageUsers", options);
  }

  usageSums(user: string, days: UsageDays): Promise<UsageSums> {
    return this.#tables.call("usageSums", user, days);
  }

  deletedAt(hashes: readonly string[]): Promise<(string | null)[]> {
    return this.#tables.call("deletedAt", hashes);
  }

  noteDeletions(deletions: readonly Deletion[]): Promise<void> {
    return this.#tables.call("noteDeletions", deletions);
  }

  listDeletions(from: string | null): Promise<DeletionPage> {
    return this.#tables.call("listDeletions", from);
  }

  onChange(listener: (user: string) => void): () => void {
    return this.#changes.add(listener);
  }

  ping(): Promise<void> {
    return this.#tables.call("ping");
  }

  close(): Promise<void> {
    this.#changes.clear();
    return this.#tables.close();
  }
}
