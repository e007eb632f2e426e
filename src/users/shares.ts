import type { TenantShares } from "../engine/scheduling/fair-share.ts";
import type { User } from "./types.ts";

/** Users as the engine's tenants. `find` is asked at each decision and must answer from memory; null: no such user any more. */
export function userShares(find: (user: string) => Pick<User, "weight" | "limits"> | null): TenantShares {
  return {
    of(user) {
      const found = find(user);
      // What still runs of a user that is being removed must not trip over it.
      if (found === null) return { weight: 1, maxRunning: null, maxQueued: null };
      const { weight, limits } = found;
      return { weight, maxRunning: limits.max_running, maxQueued: limits.max_queued };
    },
  };
}
