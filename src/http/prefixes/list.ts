import type { PrefixRegistry } from "../../prefixes/registry-types.ts";
import type { ListedPrefix } from "../../prefixes/store.ts";
import { inBatches, pageOf } from "../page.ts";
import { parsePrefixId, prefixIdOf } from "./id.ts";

export interface ListOptions {
  readonly owner: "me" | "others" | "all";
  /** The previous page's last id. */
  readonly after?: string;
  readonly limit: number;
}

/**
 * A page of the prefixes that a user may use: their own by name, then those shared with them by `owner/name`. `shown`
 * maps a prefix to its entry in the response; `next` is where the next page begins, null after the last. Throws
 * `invalid_prefix_id`.
 */
export async function prefixPage<T>(
  prefixes: Pick<PrefixRegistry, "list" | "listShared">,
  user: string,
  options: ListOptions,
  shown: (prefix: ListedPrefix) => T,
): Promise<{ prefixes: T[]; next: string | null }> {
  const { page, next } = await pageOf(usable(prefixes, user, options), options.limit, shown, (prefix) =>
    prefixIdOf(prefix, user),
  );
  return { prefixes: page, next };
}

async function* usable(
  prefixes: Pick<PrefixRegistry, "list" | "listShared">,
  user: string,
  { owner, after, limit }: ListOptions,
): AsyncGenerator<ListedPrefix, void> {
  const from = after === undefined ? null : parsePrefixId(after, user);
  if (owner !== "others" && (from === null || from.user === user))
    yield* inBatches(
      (options) => prefixes.list(user, options),
      from?.name,
      limit,
      ({ name }) => name,
    );
  if (owner === "me") return;
  const last = from === null || from.user === user ? undefined : from;
  yield* inBatches(
    (options) => prefixes.listShared(user, options),
    last,
    limit,
    (prefix) => prefix,
  );
}
