import { PrefixdError } from "../errors.ts";
import { looksLikeKey } from "../observability/secrets.ts";

/** Whom everything belongs to when the server runs without keys. */
export const LOCAL_USER = "local";
/** Whom the prefixes of the admin key belong to, and those that the server registers at start when there are keys. */
export const ADMIN_USER = "admin";

const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** Users that exist without having been created; only they have usage and prefixes without a record. */
export function isBuiltInUser(id: string): boolean {
  return id === LOCAL_USER || id === ADMIN_USER;
}

export function isUserId(id: string): boolean {
  // Ids go into logs: a key that was put in the wrong place must not.
  return ID.test(id) && !isBuiltInUser(id.toLowerCase()) && !looksLikeKey(id);
}

/** Throws `invalid_user_id`. */
export function checkUserId(id: string): void {
  if (isUserId(id)) return;
  throw new PrefixdError(
    "invalid_user_id",
    "A user id has 1 to 64 characters out of A-Z, a-z, 0-9, dot, underscore and hyphen, begins with a letter or a digit, and is not admin or local.",
  );
}
