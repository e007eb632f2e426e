import { VerifiedCache } from "../replicas/verified-cache.ts";
import type { Authenticator } from "./authenticator.ts";
import type { UserStore } from "./store.ts";
import type { User } from "./types.ts";
import { userSuspended } from "./user-id.ts";

const MAX_USERS = 20_000;
const MAX_ABSENT = 1_000;

/**
 * In-memory copies of users, for callers that cannot wait for a store: the engine needs weights and limits at each
 * decision. Entries older than `verifyMs` (default 1000) are refreshed in the background, so a change reaches every
 * replica within about that time.
 */
export class UserDirectory {
  readonly #users: VerifiedCache<string, User>;
  readonly #unsubscribe: () => void;

  constructor(store: Pick<UserStore, "getUser" | "onChange">, verifyMs = 1000) {
    this.#users = new VerifiedCache({
      ask: (id) => store.getUser(id),
      textOf: (id) => id,
      ownerOf: (id) => id,
      max: MAX_USERS,
      maxAbsent: MAX_ABSENT,
      verifyMs,
      // While the store is unreachable, the last known values stay in force.
      staleMs: Infinity,
    });
    // Refresh rather than forget: keep the old limits until the new ones arrive. With no entry, no limit would apply.
    this.#unsubscribe = store.onChange((id) => this.#users.refresh(id));
  }

  /**
   * Await this before a user's first request goes to the engine. Throws `store_unavailable` if the store is
   * unreachable and the user is not in memory.
   */
  async load(id: string): Promise<void> {
    await this.#users.get(id);
  }

  /** Looks in memory only; null: not loaded, or no such user. */
  find(id: string): User | null {
    return this.#users.peek(id) ?? null;
  }

  /** null forgets all users. */
  forget(id: string | null): void {
    if (id === null) this.#users.clear();
    else this.#users.forget(id);
  }

  close(): void {
    this.#unsubscribe();
    this.#users.clear();
  }
}

/**
 * Loads each authenticated user into the directory, so the request finds its weight and limits in memory. Throws also
 * `user_suspended`.
 */
export function withDirectory(auth: Authenticator, directory: UserDirectory): Authenticator {
  return {
    keyed: auth.keyed,
    async authenticate(authorization) {
      const principal = await auth.authenticate(authorization);
      if (principal.role !== "user") return principal;
      await directory.load(principal.user);
      if (directory.find(principal.user)?.suspended === true) throw userSuspended();
      return principal;
    },
    forget: (user) => auth.forget(user),
    close: () => auth.close(),
  };
}
