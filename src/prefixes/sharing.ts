import { PrefixdError } from "../errors.ts";
import { keyText } from "./name.ts";
import type {
  Access,
  HeldPrefixes,
  ListedPrefix,
  PrefixKey,
  PrefixMeta,
  PrefixQuota,
  SharedPart,
  SharingPatch,
} from "./store.ts";

type Sharing = Pick<PrefixMeta, "visibility" | "shared_with" | "readable_by">;

/** Stands for every user, in place of a user's id. No id looks like it. */
export const EVERYONE = "=";

/** The sharing fields of a record, for copying to another; empty if it has none. */
export function sharingOf(meta: Sharing | null): Sharing {
  const { visibility, shared_with, readable_by } = meta ?? {};
  return {
    ...(visibility === undefined ? {} : { visibility }),
    ...(shared_with === undefined ? {} : { shared_with }),
    ...(readable_by === undefined ? {} : { readable_by }),
  };
}

/** The same record without sharing fields, also in JSON. */
export function withoutSharing<T extends object>(meta: T): T {
  return { ...meta, visibility: undefined, shared_with: undefined, readable_by: undefined };
}

export function patchSharing(meta: PrefixMeta, patch: SharingPatch): PrefixMeta {
  return { ...meta, ...sharingOf(patch) };
}

/** Both lists without users for whom `gone` is true; an absent list stays absent. */
export function withoutUsers<T extends Sharing>(sharing: T, gone: (user: string) => boolean): T {
  const { shared_with, readable_by } = sharing;
  const stays = (user: string): boolean => !gone(user);
  return {
    ...sharing,
    ...(shared_with && { shared_with: shared_with.filter(stays) }),
    ...(readable_by && { readable_by: readable_by.filter(stays) }),
  };
}

/** The users with access, and EVERYONE if all may use the prefix. It appears in their lists. */
export function guestsOf(meta: Sharing & { readonly user: string }): Set<string> {
  const guests = new Set([
    ...(meta.visibility === "shared" ? [EVERYONE] : []),
    ...(meta.shared_with ?? []),
    ...(meta.readable_by ?? []),
  ]);
  guests.delete(meta.user);
  return guests;
}

/** True if a user may send requests with the prefix; only the owner may change it. */
export function mayUse(meta: PrefixMeta, user: string): boolean {
  return meta.visibility === "shared" || (meta.shared_with ?? []).includes(user) || mayRead(meta, user);
}

/** True if a user may also download its files. */
export function mayRead(meta: PrefixMeta, user: string): boolean {
  return meta.user === user || (meta.readable_by ?? []).includes(user);
}

/** The access of a user who may use the prefix. */
export function accessOf(meta: PrefixMeta, user: string): Access {
  return meta.user === user ? "owner" : mayRead(meta, user) ? "read" : "use";
}

/** A prefix's list entry for a user who may use it. */
export function listedFor(user: string, meta: PrefixMeta): ListedPrefix {
  const listed: ListedPrefix & { shared_with?: unknown; readable_by?: unknown } = {
    ...meta,
    access: accessOf(meta, user),
  };
  delete listed.shared_with;
  delete listed.readable_by;
  return listed;
}

/** One page of the prefixes shared with a user, from as many of a store's parts as it takes. */
export async function sharedPage(
  read: (after: string | null, limit: number) => Promise<SharedPart>,
  { after, limit }: { after?: PrefixKey; limit: number },
): Promise<ListedPrefix[]> {
  const page: ListedPrefix[] = [];
  let next = after === undefined ? null : keyText(after);
  do {
    const part = await read(next, limit - page.length);
    page.push(...part.found);
    next = part.next;
  } while (next !== null && page.length < limit);
  return page;
}

export const notReadable = ({ user, name }: PrefixMeta): PrefixdError =>
  new PrefixdError(
    "prefix_not_readable",
    `You may send requests with ${user}/${name} but not download it: ${user} must add you to readable_by.`,
  );

/**
 * Throws `quota_exceeded`. A prefix may always be replaced by one that is not larger, even if the quota has shrunk
 * below what exists.
 * @param others the user's prefixes except the one replaced, whose size is `replaced` (null for a new prefix)
 */
export function checkQuota(
  quota: PrefixQuota | undefined,
  others: HeldPrefixes,
  bytes: number,
  replaced: number | null,
): void {
  const { max_prefixes = null, max_prefix_bytes = null } = quota ?? {};
  if (max_prefixes !== null && replaced === null && others.prefixes + 1 > max_prefixes) throw tooMany(max_prefixes);
  if (max_prefix_bytes !== null && bytes > (replaced ?? 0) && others.bytes + bytes > max_prefix_bytes)
    throw tooLarge(max_prefix_bytes);
}

export const tooMany = (limit: number): PrefixdError =>
  new PrefixdError("quota_exceeded", `The user already has the maximum of ${limit} prefixes.`);
export const tooLarge = (limit: number): PrefixdError =>
  new PrefixdError("quota_exceeded", `The user's prefixes may have ${limit} bytes in all; this one does not fit.`);
