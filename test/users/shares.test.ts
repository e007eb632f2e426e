import t from "tap";
import { userShares } from "../../src/users/shares.ts";
import { NO_LIMITS, type User } from "../../src/users/types.ts";

t.test("a user's weight and limits are its tenant's, as they are at the moment", async (t) => {
  const users = new Map<string, Pick<User, "weight" | "limits">>();
  const shares = userShares((user) => users.get(user) ?? null);
  t.same(shares.of("ann"), { weight: 1, maxRunning: null, maxQueued: null }, "one that is gone");
  users.set("ann", { weight: 3, limits: { ...NO_LIMITS, max_running: 2, max_queued: 7 } });
  t.same(shares.of("ann"), { weight: 3, maxRunning: 2, maxQueued: 7 });
  users.set("ann", { weight: 0.5, limits: NO_LIMITS });
  t.same(shares.of("ann"), { weight: 0.5, maxRunning: null, maxQueued: null });
});
