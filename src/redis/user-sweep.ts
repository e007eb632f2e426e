import type { RedisConnection } from "./connection.ts";
import type { RedisUserKeys } from "./user-keys.ts";

/** Looked at together. */
const AT_A_TIME = 1000;

/**
 * Takes ids off the list of users whose creation, or removal, a crash has cut short: in a Cluster list and user lie in different slots, and no
 * script can write both. All are looked at once there is a connection; others are suspected when a list comes across them.
 */
export class UserSweep {
  readonly #connection: RedisConnection;
  readonly #keys: RedisUserKeys;
  readonly #graceMs: number;
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #suspects = new Set<string>();
  #begun = false;

  /** `graceMs`: how long an id may be on the list before its user is created; far longer than the commands between the two may take. */
  constructor(connection: RedisConnection, keys: RedisUserKeys, graceMs: number) {
    this.#connection = connection;
    this.#keys = keys;
    this.#graceMs = graceMs;
    connection.onReady(() => void this.#lookAtAll());
    if (connection.client.status === "ready") void this.#lookAtAll();
  }

  /** Ids that were on the list and had no user. */
  suspect(ids: readonly string[]): void {
    const fresh = ids.filter((id) => !this.#suspects.has(id));
    if (fresh.length === 0) return;
    for (const id of fresh) this.#suspects.add(id);
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      for (const id of fresh) this.#suspects.delete(id);
      // What fails now is suspected again.
      void this.#strikeOff(fresh).catch(() => undefined);
    }, this.#graceMs).unref();
    this.#timers.add(timer);
  }

  close(): void {
    for (const timer of this.#timers) clearTimeout(timer);
  }

  async #lookAtAll(): Promise<void> {
    if (this.#begun) return;
    this.#begun = true;
    try {
      for (let last = "-"; ; ) {
        const ids = await this.#connection.client.zrangebylex(this.#keys.users, last, "+", "LIMIT", 0, AT_A_TIME);
        this.suspect(await this.#without(ids));
        if (ids.length < AT_A_TIME) return;
        last = `(${ids.at(-1)!}`;
      }
    } catch {
      // The next connection begins anew.
      this.#begun = false;
    }
  }

  async #without(ids: readonly string[]): Promise<string[]> {
    const found = await Promise.all(ids.map((id) => this.#connection.client.exists(this.#keys.user(id))));
    return ids.filter((_, i) => found[i] === 0);
  }

  async #strikeOff(ids: readonly string[]): Promise<void> {
    const { client } = this.#connection;
    for (const id of await this.#without(ids)) {
      await client.zrem(this.#keys.users, id);
      // Created in the meantime.
      if ((await client.exists(this.#keys.user(id))) === 1) await client.zadd(this.#keys.users, 0, id);
    }
  }
}
