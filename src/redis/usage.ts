import { randomUUID } from "node:crypto";
import type { RedisConnection } from "./connection.ts";
import type { RedisUserKeys } from "./user-keys.ts";
import { ADD_USAGE } from "./user-scripts.ts";
import type { UsageRow } from "../users/types.ts";
import { compareUsage, toCounts, toUsageRow } from "../users/usage-counts.ts";
import { isBuiltInUser } from "../users/user-id.ts";

/** What one user has used, as it is sent until it is answered. */
interface Flush {
  readonly id: string;
  readonly user: string;
  /** Field and amount in turn. */
  readonly args: readonly (string | number)[];
}

/** Milliseconds after which an unanswered flush is sent again when nothing else asks for it. */
const AGAIN_MS = 1000;
/** Flushes that Redis refuses and that hold up no others. */
const MAX_REFUSED = 1000;

/**
 * Counters in Redis. A command that is not answered may have been carried out, or be so later: it is kept as it was and sent again
 * under the same id, which Redis counts once. Nothing new is sent before all of that has been answered, so memory is bounded by what
 * one call brings, and by MAX_REFUSED.
 */
export class RedisUsage {
  readonly #connection: RedisConnection;
  readonly #keys: RedisUserKeys;
  #unanswered: Flush[] = [];
  #last: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(connection: RedisConnection, keys: RedisUserKeys) {
    this.#connection = connection;
    this.#keys = keys;
  }

  /** When it throws it has added nothing, and keeps nothing. */
  add(rows: readonly UsageRow[]): Promise<void> {
    return this.#inTurn(async () => {
      await this.#send();
      const byUser = new Map<string, (string | number)[]>();
      for (const row of rows) {
        const args = byUser.get(row.user) ?? [];
        byUser.set(row.user, args);
        const field = `${row.day}/${row.prefix === null ? "" : `=${row.prefix}`}`;
        toCounts(row).forEach((count, i) => args.push(`${field} ${i}`, count));
      }
      this.#unanswered.push(...[...byUser].map(([user, args]) => ({ id: randomUUID(), user, args })));
      // From here on it is this class that sends them until they are answered.
      await this.#send().catch(() => undefined);
    });
  }

  async read(user: string, { from = "", to = "9999" }: { from?: string; to?: string }): Promise<UsageRow[]> {
    const rows = new Map<string, number[]>();
    for (const [name, value] of Object.entries(await this.#connection.client.hgetall(this.#keys.usage(user)))) {
      const at = name.lastIndexOf(" ");
      const field = name.slice(0, at);
      const day = field.slice(0, field.indexOf("/"));
      if (day < from || day > to) continue;
      const counts = rows.get(field) ?? [];
      rows.set(field, counts);
      counts[Number(name.slice(at + 1))] = Number(value);
    }
    const result = [...rows].map(([field, counts]) => {
      const at = field.indexOf("/");
      const prefix = field.slice(at + 1);
      return toUsageRow(user, prefix === "" ? null : prefix.slice(1), field.slice(0, at), counts);
    });
    return result.sort(compareUsage);
  }

  /** Sends once more what is unanswered. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#inTurn(() => this.#send()).catch(() => undefined);
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    this.#last = this.#last.catch(() => undefined).then(work);
    return this.#last;
  }

  /** Sends what is unanswered; throws when Redis does not answer. */
  async #send(): Promise<void> {
    const flushes = this.#unanswered;
    const results = await Promise.allSettled(
      flushes.map(({ id, user, args }) => {
        const keys = [this.#keys.user(user), this.#keys.usage(user), this.#keys.flushes(user)];
        return this.#connection.run(ADD_USAGE, keys, [isBuiltInUser(user) ? "built-in" : "created", id, ...args]);
      }),
    );
    this.#unanswered = flushes.filter((_, i) => results[i]!.status === "rejected");
    if (this.#unanswered.length === 0) return;
    if (!this.#closed) {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => void this.#inTurn(() => this.#send()).catch(() => undefined), AGAIN_MS).unref();
    }
    const failures = results.filter((result) => result.status === "rejected").map(({ reason }) => reason as Error);
    const lost =
      failures.find(({ name }) => name !== "ReplyError") ?? (failures.length > MAX_REFUSED ? failures[0] : undefined);
    if (lost !== undefined) throw lost;
  }
}
