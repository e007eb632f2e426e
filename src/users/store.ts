import type { ApiKeyRecord, UsageRow, User, UserLimits } from "./types.ts";

/** What is left of a user when it has been removed. */
export interface RemovedUser {
  readonly keys: number;
  readonly usageRows: number;
}

/**
 * Where users, keys and usage live: in the same LMDB folder or Redis as the prefixes, behind one contract suite
 * (test/contract/user-store.ts). Errors: `user_exists`, `user_not_found`, `store_unavailable`, `store_full`.
 */
export interface UserStore {
  /** Throws `user_exists`. */
  createUser(user: User): Promise<void>;
  /** null: there is none. */
  getUser(id: string): Promise<User | null>;
  /** Pages in ascending order of id. */
  listUsers(options: { after?: string; limit: number }): Promise<User[]>;
  /** Throws `user_not_found`. Limits that are not named stay. */
  patchUser(id: string, patch: { weight?: number; limits?: Partial<UserLimits> }, updatedAt: string): Promise<User>;
  /** Throws `user_not_found`: also when the user is being removed, so that no key outlives it. */
  putKey(key: ApiKeyRecord): Promise<void>;
  findKey(keyId: string): Promise<ApiKeyRecord | null>;
  listKeys(user: string): Promise<ApiKeyRecord[]>;
  /** false: there was none. */
  deleteKey(user: string, keyId: string): Promise<boolean>;
  /** Removes the user and all its keys, and its usage unless it is to be kept, at once. Throws `user_not_found`. */
  deleteUser(id: string, options: { keepUsage: boolean }): Promise<RemovedUser>;
  /** Adds to the counters of (user, prefix, day); exact under concurrency, also between replicas. */
  addUsage(rows: readonly UsageRow[]): Promise<void>;
  /** In order of day, then prefix. `from` and `to` are days, inclusive. */
  usage(user: string, range: { from?: string; to?: string }): Promise<UsageRow[]>;
  /** Called when another process changed a user or one of its keys. */
  onChange(listener: (user: string) => void): () => void;
  ping(): Promise<void>;
  close(): Promise<void>;
}
