import { PrefixdError } from "../errors.ts";
import type { HeldPrefixes, PrefixMeta, PrefixQuota, SharingPatch } from "./store.ts";

type Sharing = Pick<PrefixMeta, "visibility" | "shared_with">;

/** What a record says of sharing, to be carried over to another; nothing where it says nothing. */
export function sharingOf(meta: Sharing | null): Sharing {
  const { visibility, shared_with } = meta ?? {};
  return { ...(visibility === undefined ? {} : { visibility }), ...(shared_with === undefined ? {} : { shared_with }) };
}

export function patchSharing(meta: PrefixMeta, patch: SharingPatch): PrefixMeta {
  return { ...meta, ...sharingOf(patch) };
}

/** Whether a user may use the prefix; only the owner may change it. */
export function mayUse(meta: PrefixMeta, user: string): boolean {
  return meta.user === user || meta.visibility === "shared" || (meta.shared_with ?? []).includes(user);
}

/**
 * Throws `quota_exceeded`. `others`: the user's prefixes but the one replaced, whose bytes are `replaced` (null: it is a new one).
 * A prefix may always be replaced by one that is not larger, also when the quota has become smaller than what is there.
 */
export function checkQuota(quota: PrefixQuota | undefined, others: HeldPrefixes, bytes: number, replaced: number | null): void {
  const { max_prefixes = null, max_prefix_bytes = null } = quota ?? {};
  if (max_prefixes !== null && replaced === null && others.prefixes + 1 > max_prefixes) throw tooMany(max_prefixes);
  if (max_prefix_bytes !== null && bytes > (replaced ?? 0) && others.bytes + bytes > max_prefix_bytes) throw tooLarge(max_prefix_bytes);
}

export const tooMany = (limit: number): PrefixdError => new PrefixdError("quota_exceeded", `The user may have ${limit} prefixes and has no room for one more.`);
export const tooLarge = (limit: number): PrefixdError => new PrefixdError("quota_exceeded", `The user's prefixes may have ${limit} bytes together, and this one does not fit.`);
