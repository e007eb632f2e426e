import { PrefixdError } from "../errors.ts";
import type { RemovalState } from "./store.ts";

/** Milliseconds for which a removed user's uploads are refused: longer than any upload takes. */
export const TOMBSTONE_MS = 600_000;
/** The same for an unfinished removal, which may have to be repeated by hand. */
export const OPEN_TOMBSTONE_MS = 86_400_000;

export function userRemoved(): PrefixdError {
  return new PrefixdError("removed", "The user was removed during the upload.");
}

/** Recently removed users, in memory: for a store whose uploads end with the process. */
export class Tombstones {
  readonly #users = new Map<string, { readonly state: "open" | "done"; readonly until: number }>();

  add(user: string, state: "open" | "done"): void {
    const now = performance.now();
    for (const [other, { until }] of this.#users) if (until <= now) this.#users.delete(other);
    this.#users.set(user, { state, until: now + (state === "open" ? OPEN_TOMBSTONE_MS : TOMBSTONE_MS) });
  }

  state(user: string): RemovalState {
    const found = this.#users.get(user);
    return found !== undefined && found.until > performance.now() ? found.state : null;
  }

  /** Throws `removed`. */
  check(user: string): void {
    if (this.state(user) !== null) throw userRemoved();
  }

  delete(user: string): void {
    this.#users.delete(user);
  }
}
