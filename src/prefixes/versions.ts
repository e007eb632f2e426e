/** Earlier versions of a prefix, which its owner can put back. */
import { PrefixdError } from "../errors.ts";
import type { PrefixMeta, PrefixVersion, VersionChange } from "./store.ts";

/**
 * The versions to keep when `digest` becomes current, newest first: the one that it replaces, then earlier ones, at most
 * `keep` and at most `room` bytes in all. No digest is twice among them and the current one.
 */
export function versionsToKeep<T extends Pick<PrefixMeta, "digest" | "bytes">>(
  replaced: T | null,
  earlier: readonly T[],
  { digest, keep, room }: { digest: string; keep: number; room: number },
): T[] {
  const kept: T[] = [];
  let bytes = 0;
  for (const version of replaced === null ? earlier : [replaced, ...earlier]) {
    if (version.digest === digest) continue;
    bytes += version.bytes;
    if (kept.length >= keep || bytes > room) break;
    kept.push(version);
  }
  return kept;
}

/** Bytes that versions may take: what a user's limit leaves beside everything else and the current version. */
export function roomForVersions(limit: number | null | undefined, others: number, current: number): number {
  return limit === null || limit === undefined ? Infinity : limit - others - current;
}

export const versionNotFound = (): PrefixdError =>
  new PrefixdError("version_not_found", "The prefix has no version with this digest: see GET /prefixes/{id}/versions.");

/** A version as the current record of its prefix, without sharing. */
export function asCurrent<T extends PrefixVersion>(
  version: T,
  { createdAt }: Pick<PrefixMeta, "createdAt">,
  { updatedAt, updatedBy }: Pick<VersionChange, "updatedAt" | "updatedBy">,
): T {
  return { ...version, createdAt, updatedAt, updatedBy };
}
