import { PrefixdError } from "../errors.ts";
import { checkPrefixName } from "../prefixes/name.ts";
import { apiKeyId } from "../users/api-key.ts";
import type { PrefixKey } from "../prefixes/store.ts";

/** `name` of the user's own, or `user/name`. Whether the user may use it is the registry's to say. Throws `invalid_prefix_id`. */
export function parsePrefixId(id: string, user: string): PrefixKey {
  const slash = id.indexOf("/");
  const owner = slash < 0 ? user : id.slice(0, slash);
  const name = id.slice(slash + 1);
  // Ids go into logs: a key that was put in the wrong place must not.
  if ([owner, name].some((part) => apiKeyId(part) !== null)) throw new PrefixdError("invalid_prefix_id", "This looks like a key, not like the id of a prefix.");
  checkPrefixName(owner);
  checkPrefixName(name);
  return { user: owner, name };
}

/** The same for a change, which only the owner makes: to others the prefix does not exist. Throws `prefix_not_found` too. */
export function parseOwnPrefixId(id: string, user: string): PrefixKey {
  const key = parsePrefixId(id, user);
  if (key.user !== user) throw new PrefixdError("prefix_not_found", "There is no prefix of this name.");
  return key;
}

/** How a user calls a prefix. */
export function prefixIdOf(key: PrefixKey, user: string): string {
  return key.user === user ? key.name : `${key.user}/${key.name}`;
}
