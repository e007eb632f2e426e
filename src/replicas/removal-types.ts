/** What `DELETE /admin/users/:user` answers: what is gone, and who has confirmed it. */
export interface RemovalReceipt {
  readonly user: string;
  readonly removed: {
    readonly prefixes: number;
    readonly keys: number;
    /** Of compiled prefixes in the store. */
    readonly bytes: number;
    /** Requests that ran, and that waited, over all replicas that acknowledged. */
    readonly running: number;
    readonly queued: number;
  };
  /** Every replica that was alive when the removal began. `acknowledged_at` null: it did not answer, and its lease has run out. */
  readonly replicas: readonly { readonly id: string; readonly acknowledged_at: string | null }[];
  readonly completed_at: string;
}

export interface UserRemoval {
  /**
   * To be called before a user is created: an id that was removed lately is refused everywhere until then. Throws `user_exists`
   * while its removal is not finished, `store_unavailable`.
   */
  readmitUser(id: string): Promise<void>;
  /** Resolves when no replica can serve the user any more. Throws `user_not_found`, `store_unavailable`. Can be repeated after an error. */
  removeUser(id: string, options: { keepUsage: boolean }): Promise<RemovalReceipt>;
}
