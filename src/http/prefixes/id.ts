import { PrefixdError } from "../../errors.ts";
import { checkPrefixName, isPrefixName } from "../../prefixes/name.ts";
import { looksLikeKey } from "../../observability/secrets.ts";
import type { PrefixKey } from "../../prefixes/store.ts";

/**
 * Parses a prefix id: `name` for the user's own, or `user/name`. The registry decides on access. Throws
 * `invalid_prefix_id`.
 */
export function parsePrefixId(id: string, user: string): PrefixKey {
  const key = split(id, user);
  // Ids are logged, and a misplaced key must not be.
  if (looksLikeKey(id)) throw new PrefixdError("invalid_prefix_id", "This looks like a key, not a prefix id.");
  checkPrefixName(key.user);
  checkPrefixName(key.name);
  return key;
}

/** The same; null for what cannot be a prefix's id. */
export function prefixNamed(id: string, user: string): PrefixKey | null {
  const key = split(id, user);
  return !looksLikeKey(id) && isPrefixName(key.user) && isPrefixName(key.name) ? key : null;
}

function split(id: string, user: string): PrefixKey {
  const slash = id.indexOf("/");
  return { user: slash < 0 ? user : id.slice(0, slash), name: id.slice(slash + 1) };
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
