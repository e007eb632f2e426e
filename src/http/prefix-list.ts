import type { PrefixRegistry } from "../prefixes/registry-types.ts";
import type { PrefixMeta } from "../prefixes/store.ts";
import { parsePrefixId } from "./prefix-id.ts";

export interface ListOptions {
  readonly owner: "me" | "others" | "all";
  /** An id: where the page before ended. */
  readonly after?: string;
  readonly limit: number;
}

/** At most `limit` of the prefixes that a user may use: own ones by name, then those that others share, by `owner/name`. Throws `invalid_prefix_id`. */
export async function listPrefixes(prefixes: Pick<PrefixRegistry, "list" | "listShared">, user: string, { owner, after, limit }: ListOptions): Promise<PrefixMeta[]> {
  const from = after === undefined ? null : parsePrefixId(after, user);
  const own = owner === "others" || (from !== null && from.user !== user) ? [] : await prefixes.list(user, { limit, ...(from === null ? {} : { after: from.name }) });
  if (owner === "me" || own.length === limit) return own;
  const shared = await prefixes.listShared(user, { limit: limit - own.length, ...(from === null || from.user === user ? {} : { after: from }) });
  return [...own, ...shared];
}
