import type { RemovedPrefixes } from "../../src/prefixes/store.ts";
import type { RemovalReceipt, UserRemoval } from "../../src/replicas/removal-types.ts";
import type { UserStore } from "../../src/users/store.ts";
import { PrefixdError } from "../../src/errors.ts";

export interface LocalRemovalParts {
  readonly users: Pick<UserStore, "getUser" | "listKeys" | "deleteKey" | "deleteUser">;
  readonly prefixes: { removeUser(user: string): Promise<RemovedPrefixes> };
  /** Names this process in the receipt. */
  readonly replica: string;
}

/**
 * Removal for HTTP tests, which have neither replicas nor a real store: keys first, so that nothing new comes in; the
 * user last, so that it can be repeated.
 */
export function createLocalRemoval({ users, prefixes, replica }: LocalRemovalParts): UserRemoval {
  return {
    readmitUser: async () => {},
    async removeUser(id, options): Promise<RemovalReceipt> {
      if ((await users.getUser(id)) === null) throw new PrefixdError("user_not_found", "There is no such user.");
      const keys = await users.listKeys(id);
      for (const key of keys) await users.deleteKey(id, key.id);
      const removed = await prefixes.removeUser(id);
      const last = await users.deleteUser(id, options);
      // Registrations that finished meanwhile.
      const late = await prefixes.removeUser(id);
      const at = new Date().toISOString();
      return {
        user: id,
        removed: {
          prefixes: removed.prefixes + late.prefixes,
          keys: keys.length + last.keys,
          bytes: removed.bytes + late.bytes,
          running: 0,
          queued: 0,
          training_files: 0,
          training_jobs: 0,
          training_bytes: 0,
        },
        replicas: [{ id: replica, name: replica, acknowledged_at: at }],
        completed_at: at,
      };
    },
  };
}
