import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { PrefixdError } from "../errors.ts";
import type { ApiKeyRecord } from "./types.ts";

/**
 * `pfx_<keyId>_<secret>`: the id is public and names the key in lists, logs and paths. The secret is 256 random bits
 * in base64url. The id is hex, so the first underscore after it starts the secret.
 */
const KEY = /^pfx_([0-9a-f]{16})_[A-Za-z0-9_-]{43}$/;
const KEY_LENGTH = 4 + 16 + 1 + 43;

/** Maximum keys per user: enough for one per service or device, few enough to list in one response. */
export const MAX_USER_KEYS = 100;

export interface NewApiKey {
  readonly id: string;
  /** The whole key: shown once, never stored. */
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

/** The id inside a well-formed key; null if the text is not shaped like a key. */
export function apiKeyId(key: string): string | null {
  return key.length === KEY_LENGTH ? (KEY.exec(key)?.[1] ?? null) : null;
}

/**
 * Names any key in a log without giving it away: a user's key by its public id, another text by the first 8 hex digits
 * of its sha256, as in `sha256:1a2b3c4d`.
 */
export function keyLabel(key: string): string {
  return apiKeyId(key) ?? `sha256:${hashApiKey(key).slice(0, 8)}`;
}

/** The key in an `Authorization` header; undefined: there is none. */
export function bearerKey(authorization: string | undefined): string | undefined {
  return /^Bearer +([\x21-\x7e]{1,512}) *$/i.exec(authorization ?? "")?.[1];
}

/** sha256 in hex. 256 random bits cannot be guessed, so a slow hash would only slow down requests. */
export function hashApiKey(key: string): string {
  return createHash("sha256").update(key).digest("hex");
}

/** Whether `key` has this hash. Takes constant time, so timing does not reveal how much of the key is right. */
export function matchesHash(key: string, hash: string): boolean {
  const expected = Buffer.from(hash, "hex");
  const actual = Buffer.from(hashApiKey(key), "hex");
  return expected.length === actual.length && timingSafeEqual(actual, expected);
}
