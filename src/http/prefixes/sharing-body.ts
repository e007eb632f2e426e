import { PrefixdError } from "../../errors.ts";
import type { UserStore } from "../../users/store.ts";
import { checkUserId, isBuiltInUser } from "../../users/user-id.ts";
import type { SharingBody } from "./schema.ts";

/** Unknown users named in the error, at most. */
const NAMED = 20;

/**
 * Throws `invalid_parameter` for a user named twice in a list, and `invalid_user_id`. JSON Schema's `uniqueItems`
 * compares each with each.
 */
export function checkSharing(body: SharingBody): void {
  for (const field of ["shared_with", "readable_by"] as const) {
    const seen = new Set<string>();
    for (const user of body[field] ?? []) {
      if (!isBuiltInUser(user)) checkUserId(user);
      if (seen.has(user)) throw new PrefixdError("invalid_parameter", `${field} names ${JSON.stringify(user)} twice.`);
      seen.add(user);
    }
  }
}

/** Throws `unknown_users` that names the missing ones. */
export async function checkUsersExist(body: SharingBody, users: Pick<UserStore, "missingUsers">): Promise<void> {
  const named = new Set(
    [...(body.shared_with ?? []), ...(body.readable_by ?? [])].filter((user) => !isBuiltInUser(user)),
  );
  if (named.size === 0) return;
  const missing = await users.missingUsers([...named]);
  if (missing.length === 0) return;
  const shown = missing
    .slice(0, NAMED)
    .map((user) => JSON.stringify(user))
    .join(", ");
  const more = missing.length > NAMED ? ` and ${missing.length - NAMED} more` : "";
  throw new PrefixdError(
    "unknown_users",
    `${missing.length === 1 ? "There is no user" : "There are no users"} ${shown}${more}; nothing was changed.`,
  );
}
