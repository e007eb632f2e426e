import type { RedisConnection } from "./connection.ts";
import type { RedisUserKeys } from "./user-keys.ts";

/** Ids checked at a time. */
const IDS_AT_A_TIME = 1000;

/**
 * Removes ids from the list of users whose creation or removal was cut short by a crash: in a Cluster list and user are
 * in different slots, so no script can write both. Checks all of them once connected, and later those that a list
 * reports.
 */
export class UserSweep {
  readonly #connection: RedisConnection;
  readonly #keys: RedisUserKeys;
  readonly #graceMs: number;
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #suspects = new Set<string>();
  #begun = false;

  /**
   * @param graceMs how long an id may be listed before its user exists; far longer than the commands in between take
   */
  constructor(connection: RedisConnection, keys: RedisUserKeys, graceMs: number) {
    this.#connection = connection;
    this.#keys = keys;
    this.#graceMs = graceMs;
    connection.onReady(() => void this.#lookAtAll());
    if (connection.client.status === "ready") void this.#lookAtAll();
  }

  /** Reports ids on the list that had no user. */
  suspect(ids: readonly string[]): void {
    const fresh = ids.filter((id) => !this.#suspects.has(id));
    if (fresh.length === 0) return;
    for (const id of fresh) this.#suspects.add(id);
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      for (const id of fresh) this.#suspects.delete(id);
      // Ids that fail now will be reported again.
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
        const ids = await this.#connection.client.zrangebylex(this.#keys.users, last, "+", "LIMIT", 0, IDS_AT_A_TIME);
        this.suspect(await this.#without(ids));
        if (ids.length < IDS_AT_A_TIME) return;
        last = `(${ids.at(-1)!}`;
      }
    } catch {
      // The next connection starts over.
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
      // The user was created in the meantime.
      if ((await client.exists(this.#keys.user(id))) === 1) await client.zadd(this.#keys.users, 0, id);
    }
  }
}
