import { PrefixdError } from "../errors.ts";
import { looksLikeKey } from "../observability/secrets.ts";

/** Owns everything when the server runs without keys. */
export const LOCAL_USER = "local";
/** Owns the prefixes uploaded with the admin key and, when keys are on, those registered at start. */
export const ADMIN_USER = "admin";

const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** Built-in users exist without being created; only they have usage and prefixes without a record. */
export function isBuiltInUser(id: string): boolean {
  return id === LOCAL_USER || id === ADMIN_USER;
}

export function isUserId(id: string): boolean {
  // Ids are logged; a key pasted in place of an id must not be.
  return ID.test(id) && !isBuiltInUser(id.toLowerCase()) && !looksLikeKey(id);
}

export function noSuchUser(): PrefixdError {
  return new PrefixdError("user_not_found", "There is no such user.");
}

export function userSuspended(): PrefixdError {
  return new PrefixdError("user_suspended", "This user is suspended; ask who runs this server.");
}

export function userExists(): PrefixdError {
  return new PrefixdError("user_exists", "There is already a user with this id.");
}

/** Throws `invalid_user_id`. */
export function checkUserId(id: string): void {
  if (isUserId(id)) return;
  throw new PrefixdError(
    "invalid_user_id",
    "A user id has 1 to 64 characters out of A-Z, a-z, 0-9, dot, underscore and hyphen, begins with a letter or a digit, and is not admin or local.",
  );
}
