import { PrefixdError } from "../../errors.ts";
import type { Precondition } from "../../prefixes/store.ts";

export const etagOf = (digest: string): string => `"${digest}"`;

/** Conditions of a write. Weak tags never match a write (RFC 9110, 13.1.1), so they are dropped. */
export function writePrecondition(headers: {
  "if-match"?: string | undefined;
  "if-none-match"?: string | undefined;
}): Precondition {
  const match = headers["if-match"];
  const noneMatch = headers["if-none-match"];
  if (noneMatch !== undefined && noneMatch.trim() !== "*")
    throw new PrefixdError("invalid_parameter", "If-None-Match of a write must be *.");
  const tags = match === undefined ? undefined : parseTags(match, "If-Match");
  const ifMatch = tags === "*" || tags === undefined ? tags : tags.filter((tag) => !tag.weak).map((tag) => tag.value);
  return { ...(ifMatch === undefined ? {} : { ifMatch }), ...(noneMatch === undefined ? {} : { ifNoneMatch: "*" }) };
}

/** Whether the client already has this version. */
export function notModified(ifNoneMatch: string | undefined, digest: string): boolean {
  if (ifNoneMatch === undefined) return false;
  const tags = parseTags(ifNoneMatch, "If-None-Match");
  return tags === "*" || tags.some((tag) => tag.value === digest);
}

function parseTags(header: string, name: string): "*" | { weak: boolean; value: string }[] {
  if (header.trim() === "*") return "*";
  const tags = [...header.matchAll(/\s*(W\/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*(?:,|$)/gy)];
  const read = tags.reduce((sum, tag) => sum + tag[0].length, 0);
  if (tags.length === 0 || read !== header.length)
    throw new PrefixdError("invalid_parameter", `${name} must be * or ETags in double quotes.`);
  return tags.map((tag) => ({ weak: tag[1] !== undefined, value: tag[2] ?? "" }));
}
