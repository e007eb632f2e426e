import { PrefixdError } from "../errors.ts";
import type { Precondition } from "./store.ts";

/** Throws `precondition_failed`. `digest` is the prefix's current one; null if there is no prefix. */
export function checkPrecondition(digest: string | null, precondition: Precondition | undefined): void {
  const { ifMatch, ifNoneMatch } = precondition ?? {};
  if (ifNoneMatch === "*" && digest !== null) throw preconditionFailed("The prefix exists already.");
  if (ifMatch === undefined) return;
  if (digest === null) throw preconditionFailed("There is no such prefix to match.");
  if (ifMatch !== "*" && !ifMatch.includes(digest)) throw preconditionFailed("The prefix has another digest by now.");
}

export function preconditionFailed(detail: string): PrefixdError {
  return new PrefixdError("precondition_failed", detail);
}
