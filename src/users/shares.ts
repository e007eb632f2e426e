import type { TenantShares } from "../engine/scheduling/fair-share.ts";
import type { User } from "./types.ts";

/**
 * Presents users as the engine's tenants. `find` is called at each decision, so it must answer from memory; null: the
 * user no longer exists.
 */
export function userShares(find: (user: string) => Pick<User, "weight" | "limits"> | null): TenantShares {
  return {
    of(user) {
      const found = find(user);
      // A user being removed may still have running requests; they must not fail here.
      if (found === null) return { weight: 1, maxRunning: null, maxQueued: null };
      const { weight, limits } = found;
      return { weight, maxRunning: limits.max_running, maxQueued: limits.max_queued };
    },
  };
}
