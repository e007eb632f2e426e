import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { PrefixdError } from "../errors.ts";
import type { ApiKeyRecord } from "./types.ts";

/**
 * `pfx_<keyId>_<secret>`: the id is public and names the key in lists, logs and paths; the secret is 256 random bits in base64url.
 * The id is hex, so that the first underscore after it begins the secret.
 */
const KEY = /^pfx_([0-9a-f]{16})_[A-Za-z0-9_-]{43}$/;
const KEY_LENGTH = 4 + 16 + 1 + 43;

/** Keys that a user may have: enough for one per service or device, and few enough to be listed at once. */
export const MAX_USER_KEYS = 100;

export interface NewApiKey {
  readonly id: string;
  /** The whole key: told once, never kept. */
  readonly key: string;
  readonly hash: string;
}

export function createApiKey(): NewApiKey {
  const id = randomBytes(8).toString("hex");
  const key = `pfx_${id}_${randomBytes(32).toString("base64url")}`;
  return { id, key, hash: hashApiKey(key) };
}

export function hasExpired({ expiresAt }: Pick<ApiKeyRecord, "expiresAt">, now: Date): boolean {
  return expiresAt !== null && Date.parse(expiresAt) <= now.getTime();
}

export function tooManyKeys(): PrefixdError {
  return new PrefixdError("too_many_keys", `A user may have ${MAX_USER_KEYS} keys; delete one first.`);
}

/** The id of what has the shape of a key; null otherwise. */
export function apiKeyId(key: string): string | null {
  return key.length === KEY_LENGTH ? (KEY.exec(key)?.[1] ?? null) : null;
}

/** sha256 in hex. 256 random bits cannot be guessed, so a slow hash would only slow down requests. */
export function hashApiKey(key: string): string {
  return createHash("sha256").update(key).digest("hex");
}

/** Whether `key` is the one with this hash, in a time that does not tell how much of it is right. */
export function matchesHash(key: string, hash: string): boolean {
  const expected = Buffer.from(hash, "hex");
  const actual = Buffer.from(hashApiKey(key), "hex");
  return expected.length === actual.length && timingSafeEqual(actual, expected);
}
