import { PrefixdError } from "../errors.ts";
import type { PrefixKey } from "./store.ts";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

/** The rule, as part of a sentence. */
export const PREFIX_NAME_RULE =
  "1 to 128 characters out of A-Z, a-z, 0-9, dot, underscore and hyphen, the first a letter or a digit";

export function isPrefixName(name: string): boolean {
  return NAME.test(name);
}

/**
 * Checks a name, which appears in paths, keys and log lines: 1 to 128 of `A-Z a-z 0-9 . _ -`, the first a letter or
 * digit. Throws `invalid_prefix_id`.
 */
export function checkPrefixName(name: string): void {
  if (isPrefixName(name)) return;
  throw new PrefixdError("invalid_prefix_id", `A prefix name has ${PREFIX_NAME_RULE}.`);
}

/** For those who may not use a prefix it does not exist either. */
export function prefixNotFound(): PrefixdError {
  return new PrefixdError("prefix_not_found", "There is no prefix of this name.");
}

/** A key as one string; `/` occurs in neither part. A user's strings sort by name. */
export function keyText(key: PrefixKey): string {
  return `${encodeURIComponent(key.user)}/${encodeURIComponent(key.name)}`;
}

/** The inverse of `keyText`. */
export function parseKeyText(text: string): PrefixKey {
  const slash = text.indexOf("/");
  return { user: decodeURIComponent(text.slice(0, slash)), name: decodeURIComponent(text.slice(slash + 1)) };
}

/** Compares texts of keys, which are ASCII, as LMDB and Redis order them. */
export function compareTexts(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
