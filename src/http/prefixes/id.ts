import { PrefixdError } from "../../errors.ts";
import { checkPrefixName, isPrefixName } from "../../prefixes/name.ts";
import { looksLikeKey } from "../../observability/secrets.ts";
import type { PrefixKey } from "../../prefixes/store.ts";

/**
 * Parses a prefix id: `name` for the user's own, or `user/name`. The registry decides on access. Throws
 * `invalid_prefix_id`.
 */
export function parsePrefixId(id: string, user: string): PrefixKey {
  const slash = id.indexOf("/");
  const owner = slash < 0 ? user : id.slice(0, slash);
  const name = id.slice(slash + 1);
  // Ids are logged, and a misplaced key must not be.
  if (looksLikeKey(id)) throw new PrefixdError("invalid_prefix_id", "This looks like a key, not a prefix id.");
  checkPrefixName(owner);
  checkPrefixName(name);
  return { user: owner, name };
}

/** A prefix's id as seen by a user. */
export function prefixIdOf(key: PrefixKey, user: string): string {
  return key.user === user ? key.name : `${key.user}/${key.name}`;
}

/** Corrects a path whose id has an unescaped slash; null if it is not such a path. */
export function escapedPath(path: string): string | null {
  const [, owner = "", name = "", rest = ""] =
    /^\/prefixes\/([^/]+)\/([^/]+)(|\/adapter|\/adapter\/[A-Za-z0-9._-]+|\/generate)$/.exec(path) ?? [];
  const isPart = (part: string): boolean => isPrefixName(part) && !looksLikeKey(part);
  return isPart(owner) && isPart(name) ? `/prefixes/${owner}%2F${name}${rest}` : null;
}
