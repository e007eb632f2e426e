import type { PrefixRegistry } from "../../prefixes/registry-types.ts";
import type { ListedPrefix } from "../../prefixes/store.ts";
import { parsePrefixId } from "./id.ts";

export interface ListOptions {
  readonly owner: "me" | "others" | "all";
  /** An id: where the page before ended. */
  readonly after?: string;
  readonly limit: number;
}

/** Bytes of a page's JSON, about: one that has so many has no more prefixes. A thousand ordinary ones have less. */
const PAGE_BYTES = 1024 ** 2;
/** Prefixes that a store is asked for at a time. */
const AT_A_TIME = 100;

/**
 * A page of the prefixes that a user may use: own ones by name, then those that others share, by `owner/name`. `shown` is what the answer has of
 * one; `next` is where the next page begins, null after the last one. Throws `invalid_prefix_id`.
 */
export async function prefixPage<T extends { readonly id: string }>(
  prefixes: Pick<PrefixRegistry, "list" | "listShared">,
  user: string,
  options: ListOptions,
  shown: (prefix: ListedPrefix) => T,
): Promise<{ prefixes: T[]; next: string | null }> {
  const page: T[] = [];
  let bytes = 0;
  for await (const prefix of usable(prefixes, user, options)) {
    const last = page.at(-1);
    if (last !== undefined && (page.length === options.limit || bytes >= PAGE_BYTES))
      return { prefixes: page, next: last.id };
    const entry = shown(prefix);
    bytes += Buffer.byteLength(JSON.stringify(entry));
    page.push(entry);
  }
  return { prefixes: page, next: null };
}

/** All of them, as many of which are read as are taken; one more than `limit` tells whether there is a next page. */
async function* usable(
  prefixes: Pick<PrefixRegistry, "list" | "listShared">,
  user: string,
  { owner, after, limit }: ListOptions,
): AsyncGenerator<ListedPrefix, void> {
  const from = after === undefined ? null : parsePrefixId(after, user);
  const atATime = Math.min(limit + 1, AT_A_TIME);
  if (owner !== "others" && (from === null || from.user === user)) {
    for (let last = from?.name; ; ) {
      const own = await prefixes.list(user, { limit: atATime, ...(last === undefined ? {} : { after: last }) });
      yield* own;
      if (own.length < atATime) break;
      last = own.at(-1)!.name;
    }
  }
  if (owner === "me") return;
  for (let last = from === null || from.user === user ? undefined : from; ; ) {
    const shared: ListedPrefix[] = await prefixes.listShared(user, {
      limit: atATime,
      ...(last === undefined ? {} : { after: last }),
    });
    yield* shared;
    if (shared.length < atATime) return;
    last = shared.at(-1)!;
  }
}
