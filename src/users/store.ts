import type { Deletion, DeletionPage } from "./deletions.ts";
import type { ApiKeyRecord, UsageRow, UsageSums, User, UserLimits } from "./types.ts";

/** How much `deleteUser` removed. */
export interface RemovedUser {
  readonly keys: number;
  readonly usageRows: number;
}

export interface UserPatch {
  readonly weight?: number;
  /** Omitted limits stay unchanged. */
  readonly limits?: Partial<UserLimits>;
  readonly suspended?: boolean;
}

/** A user before and after a patch. */
export interface PatchedUser {
  readonly before: User;
  readonly user: User;
}

export function patchedUser(user: User, { weight, limits, suspended }: UserPatch, updatedAt: string): User {
  const { suspended: was = false, ...rest } = user;
  return {
    ...rest,
    weight: weight ?? user.weight,
    limits: { ...user.limits, ...limits },
    ...((suspended ?? was) ? { suspended: true } : {}),
    updatedAt,
  };
}

/** First and last UTC day, inclusive. */
export interface UsageDays {
  readonly from?: string;
  readonly to?: string;
}

export interface UsageRange extends UsageDays {
  /** Only rows after this row name (`usageRowName`), which need not exist. */
  readonly after?: string;
}

/**
 * Stores users, keys and usage next to the prefixes, in the same LMDB folder or Redis. Contract suite:
 * test/contract/user-store.ts. Errors: `user_exists`, `user_not_found`, `store_unavailable`, `store_full`.
 */
export interface UserStore {
  /** Throws `user_exists`. */
  createUser(user: User): Promise<void>;
  /** null: no such user. */
  getUser(id: string): Promise<User | null>;
  /** The given ids that belong to no user, in the given order. */
  missingUsers(ids: readonly string[]): Promise<string[]>;
  /** One page, in ascending order of id. */
  listUsers(options: { after?: string; limit: number }): Promise<User[]>;
  /** Throws `user_not_found`. */
  patchUser(id: string, patch: UserPatch, updatedAt: string): Promise<PatchedUser>;
  /**
   * Deletes the user's keys that had expired when this one was created, to make room. Throws `user_not_found` (no key
   * outlives its user) and `too_many_keys`.
   */
  putKey(key: ApiKeyRecord): Promise<void>;
  findKey(keyId: string): Promise<ApiKeyRecord | null>;
  /** In order of creation, then id. */
  listKeys(user: string): Promise<ApiKeyRecord[]>;
  /** false: no such key. The deletion is remembered. */
  deleteKey(user: string, keyId: string): Promise<boolean>;
  /**
   * Removes the user, its keys and (unless `keepUsage`) its usage atomically, and remembers the deletion. Throws
   * `user_not_found`.
   */
  deleteUser(id: string, options: { keepUsage: boolean }): Promise<RemovedUser>;
  /**
   * Adds to the counters of (user, prefix, day); exact under concurrency, also across replicas. Seconds are stored as
   * whole microseconds. Drops rows of removed users, so that none of their data comes back; built-in users need no
   * record.
   */
  addUsage(rows: readonly UsageRow[]): Promise<void>;
  /**
   * One page, in order of day, then prefix (the bare base model first). Rows added between pages never hide or repeat
   * an existing row.
   */
  usage(user: string, options: UsageRange & { limit: number }): Promise<UsageRow[]>;
  /**
   * One page of ids, in ascending order: of all users with usage, removed and built-in ones included, and perhaps of
   * others.
   */
  usageUsers(options: { after?: string; limit: number }): Promise<string[]>;
  /** Exact sums over all rows of these days. Cost grows with the number of days, not of rows. */
  usageSums(user: string, days: UsageDays): Promise<UsageSums>;
  /** When users or keys (`deletionHash`) were last deleted; null for those of which nothing is known. */
  deletedAt(hashes: readonly string[]): Promise<(string | null)[]>;
  /** Remembers deletions made elsewhere; of two of the same, the later. */
  noteDeletions(deletions: readonly Deletion[]): Promise<void>;
  /** A part of what is remembered, from the beginning (null) or a page's `next`. */
  listDeletions(from: string | null): Promise<DeletionPage>;
  /** Called when this process (before its call resolves) or another one changed a user or one of its keys. */
  onChange(listener: (user: string) => void): () => void;
  ping(): Promise<void>;
  close(): Promise<void>;
}
