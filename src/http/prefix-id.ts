import { PrefixdError } from "../errors.ts";
import { checkPrefixName } from "../prefixes/name.ts";
import type { PrefixKey } from "../prefixes/store.ts";

/** Whom everything belongs to as long as there are no users. */
export const LOCAL_USER = "local";

/** `name` of the user's own, or `user/name`. What belongs to others does not exist: the answer is the same. */
export function parsePrefixId(id: string, user: string = LOCAL_USER): PrefixKey {
  const slash = id.indexOf("/");
  const owner = slash < 0 ? user : id.slice(0, slash);
  const name = id.slice(slash + 1);
  checkPrefixName(owner);
  checkPrefixName(name);
  if (owner !== user) throw new PrefixdError("prefix_not_found", "There is no such prefix.");
  return { user, name };
}
