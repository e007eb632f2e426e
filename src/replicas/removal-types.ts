/** Response of `DELETE /admin/users/:user`: what was removed, and which replicas confirmed it. */
export interface RemovalReceipt {
  readonly user: string;
  readonly removed: {
    readonly prefixes: number;
    readonly keys: number;
    /** Bytes of compiled prefixes removed from the store. */
    readonly bytes: number;
    /** Running and queued requests ended, over all replicas that acknowledged. */
    readonly running: number;
    readonly queued: number;
    /** Of training; `training_bytes` are those of the files. */
    readonly training_files: number;
    readonly training_jobs: number;
    readonly training_bytes: number;
  };
  /** All replicas alive when the removal began. `acknowledged_at` null: it did not answer and its lease expired. */
  readonly replicas: readonly { readonly id: string; readonly name: string; readonly acknowledged_at: string | null }[];
  readonly completed_at: string;
}

export interface UserRemoval {
  /**
   * Call before creating a user: until then, all replicas refuse a recently removed id. Throws `user_exists` while the
   * removal is unfinished, and `store_unavailable`.
   */
  readmitUser(id: string): Promise<void>;
  /**
   * Resolves when no replica can serve the user any more. Throws `user_not_found`, `store_unavailable`. Can be repeated
   * after an error.
   */
  removeUser(id: string, options: { keepUsage: boolean }): Promise<RemovalReceipt>;
}
