/**
 * A store's memory of deleted users and keys: a restored backup must not bring them back. It has hashes and times only,
 * no id.
 */
import { createHash } from "node:crypto";

/** One deleted user or key. */
export interface Deletion {
  /** `deletionHash` of what was deleted. */
  readonly hash: string;
  /** ISO time of the last deletion. */
  readonly at: string;
}

/** A part of a store's deletions, in no order; one may come twice. */
export interface DeletionPage {
  readonly found: readonly Deletion[];
  /** Where the next part begins; null: this is the last one. */
  readonly next: string | null;
}

/** Milliseconds for which deletions are remembered: longer than backups are usually kept. */
export const DELETIONS_KEPT_MS = 400 * 86_400_000;

/** sha256 in hex. It hides an id from those who read the store, not from those who can guess the id. */
export function deletionHash(kind: "user" | "key", id: string): string {
  return createHash("sha256").update(`${kind}:${id}`).digest("hex");
}

/** Deletions before this time are forgotten. */
export function forgottenBefore(now = Date.now()): Date {
  return new Date(now - DELETIONS_KEPT_MS);
}
