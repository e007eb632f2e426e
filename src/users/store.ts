import type { ApiKeyRecord, UsageRow, UsageSums, User, UserLimits } from "./types.ts";

/** What is left of a user when it has been removed. */
export interface RemovedUser {
  readonly keys: number;
  readonly usageRows: number;
}

export interface UserPatch {
  readonly weight?: number;
  /** Limits that are not named stay. */
  readonly limits?: Partial<UserLimits>;
}

/** First and last UTC day, inclusive. */
export interface UsageDays {
  readonly from?: string;
  readonly to?: string;
}

export interface UsageRange extends UsageDays {
  /** Only rows after the one of this name (`usageRowName`), whether or not there is one. */
  readonly after?: string;
}

/**
 * Where users, keys and usage live: beside the prefixes, in the same LMDB folder or Redis, behind one contract suite
 * (test/contract/user-store.ts). Errors: `user_exists`, `user_not_found`, `store_unavailable`, `store_full`.
 */
export interface UserStore {
  /** Throws `user_exists`. */
  createUser(user: User): Promise<void>;
  /** null: there is none. */
  getUser(id: string): Promise<User | null>;
  /** Those of the ids that are no users', in their order. */
  missingUsers(ids: readonly string[]): Promise<string[]>;
  /** Pages in ascending order of id. */
  listUsers(options: { after?: string; limit: number }): Promise<User[]>;
  /** Throws `user_not_found`. */
  patchUser(id: string, patch: UserPatch, updatedAt: string): Promise<User>;
  /** Keys that have expired by its creation make room for it. Throws `user_not_found`, since no key outlives its user, and `too_many_keys`. */
  putKey(key: ApiKeyRecord): Promise<void>;
  findKey(keyId: string): Promise<ApiKeyRecord | null>;
  /** In order of creation, then id. */
  listKeys(user: string): Promise<ApiKeyRecord[]>;
  /** false: there was none. */
  deleteKey(user: string, keyId: string): Promise<boolean>;
  /** Removes the user and all its keys, and its usage unless it is to be kept, at once. Throws `user_not_found`. */
  deleteUser(id: string, options: { keepUsage: boolean }): Promise<RemovedUser>;
  /**
   * Adds to the counters of (user, prefix, day); exact under concurrency, also between replicas. Seconds count in microseconds.
   * Rows of users that are gone are dropped, so that nothing of them comes back; the built-in users need no record.
   */
  addUsage(rows: readonly UsageRow[]): Promise<void>;
  /** Pages in order of day, then prefix (the bare base model first). A row that is there all the while is on one page, whatever is added meanwhile. */
  usage(user: string, options: UsageRange & { limit: number }): Promise<UsageRow[]>;
  /** All rows of the days together, exact; costs what there are of days, however many rows. */
  usageSums(user: string, days: UsageDays): Promise<UsageSums>;
  /** Called when a user or one of its keys was changed, by this process (before its call resolves) or by another. */
  onChange(listener: (user: string) => void): () => void;
  ping(): Promise<void>;
  close(): Promise<void>;
}
