import { randomUUID } from "node:crypto";
import type { RedisConnection } from "./connection.ts";
import type { RedisUserKeys } from "./user-keys.ts";
import { ADD_USAGE, READ_USAGE, READ_USAGE_DAYS } from "./user-scripts.ts";
import type { UsageDays, UsageRange } from "../users/store.ts";
import type { UsageRow, UsageSums } from "../users/types.ts";
import { compare, toCounts, toUsageRow, toUsageSums, usageRowName, usageRowNames } from "../users/usage-counts.ts";
import { ADMIN_USER, isBuiltInUser, LOCAL_USER } from "../users/user-id.ts";

/** A user's usage, sent until it is acknowledged. */
interface Flush {
  readonly id: string;
  readonly user: string;
  /** Day, name and counts of each row. */
  readonly args: readonly (string | number)[];
}

/** Milliseconds until an unanswered flush is resent, if nothing else triggers it. */
const AGAIN_MS = 1000;
/** Refused flushes kept for retrying; they do not block others. */
const MAX_REFUSED = 1000;

/**
 * Usage counters in Redis. An unanswered command may or may not have been executed: it is kept and resent unchanged
 * under the same id, which Redis counts once. Nothing new is sent before all of them are answered, so memory is bounded
 * by one call's rows and MAX_REFUSED.
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

  /** Adds rows. If it throws, nothing was added or kept. */
  add(rows: readonly UsageRow[]): Promise<void> {
    return this.#inTurn(async () => {
      await this.#send();
      const byUser = new Map<string, (string | number)[]>();
      for (const row of rows) {
        const args = byUser.get(row.user) ?? [];
        byUser.set(row.user, args);
        args.push(row.day, usageRowName(row), ...toCounts(row));
      }
      this.#unanswered.push(...[...byUser].map(([user, args]) => ({ id: randomUUID(), user, args })));
      // From now on this class keeps sending them until they are answered.
      await this.#send().catch(() => undefined);
    });
  }

  async read(user: string, { limit, ...range }: UsageRange & { limit: number }): Promise<UsageRow[]> {
    const { start, inclusive, end } = usageRowNames(range);
    const args = [`${inclusive ? "[" : "("}${start}`, `(${end}`, limit];
    const rows = await this.#connection.run(READ_USAGE, this.#keysOf(user), args);
    return (rows as [string, string[]][]).map(([name, counts]) => toUsageRow(user, name, counts.map(Number)));
  }

  /** Ids of users with a record, of removed ones whose usage was kept, and built-in ones. */
  async users({ after, limit }: { after?: string; limit: number }): Promise<string[]> {
    const [min, { client }] = [after === undefined ? "-" : `(${after}`, this.#connection];
    const lists = await Promise.all(
      [this.#keys.users, this.#keys.usageKept].map((list) => client.zrangebylex(list, min, "+", "LIMIT", 0, limit)),
    );
    const builtIn = [ADMIN_USER, LOCAL_USER].filter((id) => after === undefined || id > after);
    return [...new Set([...lists.flat(), ...builtIn])].sort(compare).slice(0, limit);
  }

  async sums(user: string, { from = "", to = "9999" }: UsageDays): Promise<UsageSums> {
    const found = (await this.#connection.run(READ_USAGE_DAYS, this.#keysOf(user), [])) as string[];
    const sums: number[] = [];
    for (let i = 0; i < found.length; i += 2) {
      const [day = "", counter] = found[i]!.split(" ");
      if (day < from || day > to) continue;
      sums[Number(counter)] = (sums[Number(counter)] ?? 0) + Number(found[i + 1]);
    }
    return toUsageSums(sums);
  }

  /** Sends unanswered flushes once more. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#timer);
    await this.#inTurn(() => this.#send()).catch(() => undefined);
  }

  #keysOf(user: string): string[] {
    return [this.#keys.usage(user), this.#keys.usageRows(user), this.#keys.usageDays(user)];
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    this.#last = this.#last.catch(() => undefined).then(work);
    return this.#last;
  }

  /** Sends unanswered flushes; throws if Redis does not answer. */
  async #send(): Promise<void> {
    const flushes = this.#unanswered;
    const results = await Promise.allSettled(
      flushes.map(({ id, user, args }) => {
        const keys = [...this.#keysOf(user), this.#keys.user(user), this.#keys.flushes(user)];
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
