import { LRUCache } from "lru-cache";
import type { UserStore } from "./store.ts";
import type { User } from "./types.ts";

interface Known {
  /** null: there is no such user. */
  readonly user: User | null;
  readonly at: number;
}

const MAX_USERS = 20_000;

/**
 * Users in memory, for what cannot wait for a store: the engine asks for weights and limits at each decision. What is older than
 * `verifyMs` (default 1000) is asked for anew in the background, so a change reaches every replica within about that time.
 */
export class UserDirectory {
  readonly #store: Pick<UserStore, "getUser" | "onChange">;
  readonly #verifyMs: number;
  readonly #known = new LRUCache<string, Known>({ max: MAX_USERS });
  readonly #asking = new Map<string, Promise<void>>();
  readonly #unsubscribe: () => void;

  constructor(store: Pick<UserStore, "getUser" | "onChange">, verifyMs = 1000) {
    this.#store = store;
    this.#verifyMs = verifyMs;
    this.#unsubscribe = store.onChange((user) => void this.#ask(user).catch(() => {}));
  }

  /** To be awaited before a user's first request goes to the engine. Throws `store_unavailable` for a user never seen. */
  async load(id: string): Promise<void> {
    const known = this.#known.get(id);
    if (known !== undefined && performance.now() - known.at < this.#verifyMs) return;
    await this.#ask(id).catch((error: unknown) => {
      // What was known last goes on holding while the store is away.
      if (known === undefined) throw error;
    });
  }

  /** From memory; null: not known, or no such user. */
  find(id: string): User | null {
    const known = this.#known.get(id);
    if (known === undefined) return null;
    if (performance.now() - known.at >= this.#verifyMs) void this.#ask(id).catch(() => {});
    return known.user;
  }

  /** Without an id: everybody. */
  forget(id: string | null): void {
    if (id === null) this.#known.clear();
    else this.#known.delete(id);
  }

  close(): void {
    this.#unsubscribe();
    this.#known.clear();
  }

  #ask(id: string): Promise<void> {
    const under = this.#asking.get(id);
    if (under !== undefined) return under;
    const at = performance.now();
    const asked = this.#store
      .getUser(id)
      .then((user) => void this.#known.set(id, { user, at }))
      .finally(() => this.#asking.delete(id));
    this.#asking.set(id, asked);
    return asked;
  }
}
