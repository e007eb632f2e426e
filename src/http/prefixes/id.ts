import { PrefixdError } from "../../errors.ts";
import { checkPrefixName, isPrefixName } from "../../prefixes/name.ts";
import { looksLikeKey } from "../../observability/secrets.ts";
import type { PrefixKey } from "../../prefixes/store.ts";

/** `name` of the user's own, or `user/name`. Whether the user may use it is the registry's to say. Throws `invalid_prefix_id`. */
export function parsePrefixId(id: string, user: string): PrefixKey {
  const slash = id.indexOf("/");
  const owner = slash < 0 ? user : id.slice(0, slash);
  const name = id.slice(slash + 1);
  // Ids go into logs: a key that was put in the wrong place must not.
  if (looksLikeKey(id))
    throw new PrefixdError("invalid_prefix_id", "This looks like a key, not like the id of a prefix.");
  checkPrefixName(owner);
  checkPrefixName(name);
  return { user: owner, name };
}

/** How a user calls a prefix. */
export function prefixIdOf(key: PrefixKey, user: string): string {
  return key.user === user ? key.name : `${key.user}/${key.name}`;
}

/** For a path in which an id's slash is not escaped: what it should be; null: it is not such a path. */
export function escapedPath(path: string): string | null {
  const [, owner = "", name = "", rest = ""] =
    /^\/prefixes\/([^/]+)\/([^/]+)(|\/adapter|\/adapter\/[A-Za-z0-9._-]+|\/generate)$/.exec(path) ?? [];
  const isPart = (part: string): boolean => isPrefixName(part) && !looksLikeKey(part);
  return isPart(owner) && isPart(name) ? `/prefixes/${owner}%2F${name}${rest}` : null;
}
