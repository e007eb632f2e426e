import type { PatchedUser, UserPatch, UserStore } from "../users/store.ts";
import type { ReplicaBus } from "./replica-bus.ts";

/** Changes that take effect on all replicas before they are answered. */
export interface Revocation {
  /**
   * Resolves when no replica accepts the key or works for it any more; false: there was no such key. Throws
   * `store_unavailable`; can be repeated.
   */
  deleteKey(user: string, keyId: string): Promise<boolean>;
  /**
   * Changes a user. When it resolves after `suspended: true`, no replica works for the user any more, and after
   * `suspended: false` all do. Throws `user_not_found`, `store_unavailable`; can be repeated.
   */
  patchUser(id: string, patch: UserPatch, updatedAt: string): Promise<PatchedUser>;
}

export interface RevocationParts {
  readonly users: Pick<UserStore, "deleteKey" | "patchUser">;
  readonly bus: Pick<ReplicaBus, "broadcast">;
}

/** First the store, so that nothing new begins; then the replicas, which end what runs. */
export function createRevocation({ users, bus }: RevocationParts): Revocation {
  return {
    async deleteKey(user, keyId) {
      const deleted = await users.deleteKey(user, keyId);
      // Also if it was gone already: an earlier call may not have reached the replicas.
      await bus.broadcast({ kind: "key", user, keyId });
      return deleted;
    },
    async patchUser(id, patch, updatedAt) {
      const patched = await users.patchUser(id, patch, updatedAt);
      // Also if it was so already, as above.
      if (patch.suspended !== undefined)
        await bus.broadcast({ kind: patch.suspended ? "suspend" : "resume", user: id });
      return patched;
    },
  };
}
