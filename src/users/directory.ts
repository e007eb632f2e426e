import { VerifiedCache } from "../replicas/verified-cache.ts";
import type { Authenticator } from "./authenticator.ts";
import type { UserStore } from "./store.ts";
import type { User } from "./types.ts";

const MAX_USERS = 20_000;
const MAX_ABSENT = 1_000;

/**
 * Users in memory, for what cannot wait for a store: the engine asks for weights and limits at each decision. What is older than
 * `verifyMs` (default 1000) is asked for anew in the background, so a change reaches every replica within about that time.
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
      // What was known last goes on holding while the store is away.
      staleMs: Infinity,
    });
    // The last limits hold until the new ones are there: without any, there would be none.
    this.#unsubscribe = store.onChange((id) => this.#users.refresh(id));
  }

  /** To be awaited before a user's first request goes to the engine. Throws `store_unavailable` for a user never seen. */
  async load(id: string): Promise<void> {
    await this.#users.get(id);
  }

  /** From memory; null: not known, or no such user. */
  find(id: string): User | null {
    return this.#users.peek(id) ?? null;
  }

  /** Without an id: everybody. */
  forget(id: string | null): void {
    if (id === null) this.#users.clear();
    else this.#users.forget(id);
  }

  close(): void {
    this.#unsubscribe();
    this.#users.clear();
  }
}

/** Weight and limits of whoever has been recognised are in memory before the request asks for them. */
export function withDirectory(auth: Authenticator, directory: UserDirectory): Authenticator {
  return {
    keyed: auth.keyed,
    async authenticate(authorization) {
      const principal = await auth.authenticate(authorization);
      if (principal.role === "user") await directory.load(principal.user);
      return principal;
    },
    forget: (user) => auth.forget(user),
    close: () => auth.close(),
  };
}
