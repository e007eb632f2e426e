import { randomUUID } from "node:crypto";
import { Cluster, type Redis } from "ioredis";
import { compareTexts, keyText, parseKeyText } from "../prefixes/name.ts";
import { isOutOfMemory, type RedisCommands } from "./connection.ts";
import { parseEntry } from "./prefix-entry.ts";
import type { RedisKeys } from "./prefix-keys.ts";
import { CROSS_OFF, SETTLE, SHOW_SHARED, STRIKE_OFF } from "./sharing-scripts.ts";
import { EVERYONE, guestsOf } from "../prefixes/sharing.ts";
import type { ListedPrefix, PrefixKey, SharedPart } from "../prefixes/store.ts";

/** Entries checked or updated at a time. */
const ENTRIES_AT_A_TIME = 250;
/** Milliseconds after which a change is certainly over, because its process died midway. */
const OVER_MS = 60_000;
/** How often settling restarts because of concurrent additions. */
const ROUNDS = 64;

/** A note for a guest's index: `guest/name` of the owner's prefix, and the change that wrote it. */
type Note = readonly [field: string, change: string];

/**
 * Index of the prefixes shared with a user, and with everyone, over all owners. In a Cluster a guest's part is in
 * another slot than the record, so no script can write both. The script that changes a record also notes whose access
 * it changes; `settle` then reads the record, updates the guest's part, and deletes the note. Notes left by a crash are
 * settled with the owner's next change, when the unanswered change is repeated, or before a guest is removed (who would
 * otherwise stay on a list that no index knows): every change is in the set `settling` from before it is made until it
 * is settled. Entries are hints: readers check the record.
 */
export class RedisShares {
  readonly #connection: RedisCommands;
  readonly #keys: RedisKeys;
  readonly #message: (key: PrefixKey) => string;
  #isBuilt: Promise<void> | undefined;

  /** @param message what other replicas are told of a prefix that has changed */
  constructor(connection: RedisCommands, keys: RedisKeys, message: (key: PrefixKey) => string) {
    this.#connection = connection;
    this.#keys = keys;
    this.#message = message;
  }

  /** Makes an owner's change and settles it; `struck`: a guest was already removed, and was struck off. */
  async changing<T>(owner: string, change: () => Promise<T>): Promise<{ value: T; struck: boolean }> {
    const { client } = this.#connection;
    const member = `${encodeURIComponent(owner)}/${randomUUID()}`;
    await client.zadd(this.#keys.settling, Date.now(), member).catch((error: unknown) => {
      // A revoking change makes room; a granting one is refused by itself. Without this member, a crash right now
      // leaves notes that only the owner's next change settles.
      if (!isOutOfMemory(error)) throw error;
    });
    const value = await change();
    const struck = await this.#settle(owner);
    await client.zrem(this.#keys.settling, member);
    return { value, struck };
  }

  /**
   * Settles leftovers of crashes, for all owners. A member that may belong to a running change stays, which is
   * harmless.
   */
  async #settleAll(): Promise<void> {
    const { client } = this.#connection;
    const members = await client.zrange(this.#keys.settling, "0", "-1", "WITHSCORES");
    for (let i = 0; i < members.length; i += 2) {
      const [member, since] = [members[i]!, Number(members[i + 1])];
      await this.#settle(decodeURIComponent(member.slice(0, member.indexOf("/"))));
      if (Date.now() - since > OVER_MS) await client.zrem(this.#keys.settling, member);
    }
  }

  /**
   * Updates all guests' parts with an owner's changes. Returns whether a guest was already removed, and was struck off.
   */
  async #settle(owner: string): Promise<boolean> {
    let struck = false;
    for (let round = 0; round < ROUNDS; round++) {
      let settled = true;
      for await (const notes of this.#pairs(this.#keys.unsettled(owner))) {
        const outcome = await this.#settleSome(owner, notes);
        settled &&= outcome.settled;
        struck ||= outcome.struck;
      }
      if (settled) break;
    }
    return struck;
  }

  /** Up to `limit` of others' prefixes that a user may use, after `after` (a key's text). */
  async page(user: string, after: string | null, limit: number): Promise<SharedPart> {
    const wanted = Math.min(limit, ENTRIES_AT_A_TIME);
    const { client } = this.#connection;
    const guests = [user, EVERYONE];
    const counts = await this.#counts(guests);
    // The user's own entries are adjacent and skipped at once. "0" is the character after "/".
    const own = encodeURIComponent(user);
    const from = after === null ? "-" : `(${after}`;
    const ranges = [
      [from, `(${own}/`],
      [after !== null && after > `${own}0` ? from : `[${own}0`, "+"],
    ] as const;
    const entries = await Promise.all(
      guests.flatMap((guest) =>
        ranges.map(([min, max]) => client.zrangebylex(this.#keys.shared(guest), min, max, "LIMIT", 0, wanted)),
      ),
    );
    const members = [...new Set(entries.flat())].sort(compareTexts).slice(0, wanted);
    const shown = await Promise.all(
      members
        .map(parseKeyText)
        .map((key) => this.#connection.run(SHOW_SHARED, [this.#keys.prefixes(key.user)], [key.name, user])),
    );
    const found: ListedPrefix[] = [];
    const stale: string[] = [];
    for (const [i, prefix] of (shown as ([head: string, access: "read" | "use"] | null)[]).entries()) {
      if (prefix === null) stale.push(members[i]!);
      else found.push({ ...parseEntry(prefix[0]).meta, access: prefix[1] });
    }
    if (stale.length > 0) await Promise.all(guests.map((guest) => this.#write(guest, counts.get(guest)!, [], stale)));
    return { found, next: members.length < wanted ? null : members.at(-1)! };
  }

  /** Removes a deleted user from the lists of all prefixes shared with them. Can be repeated. */
  async removeGuest(user: string): Promise<void> {
    await this.#settleAll();
    const { client } = this.#connection;
    const shared = this.#keys.shared(user);
    for (;;) {
      const members = await client.zrange(shared, "0", String(ENTRIES_AT_A_TIME - 1));
      if (members.length === 0) break;
      const keys = members.map(parseKeyText);
      await Promise.all(keys.map((key) => this.#strikeOff(key, user)));
      for (const owner of new Set(keys.map((key) => key.user))) await this.#settle(owner);
      await client.zrem(shared, ...members);
    }
    await client.del(this.#keys.sharedChanges(user));
  }

  /** Runs once: indexes what was shared before the index existed. If Redis has no room, the next call tries again. */
  built(): Promise<void> {
    return (this.#isBuilt ??= this.#build().catch(() => {
      this.#isBuilt = undefined;
    }));
  }

  async #build(): Promise<void> {
    const { client } = this.#connection;
    if ((await client.exists(this.#keys.sharesBuilt)) === 1) return;
    const nodes: Redis[] = client instanceof Cluster ? client.nodes("master") : [client];
    for (const node of nodes) {
      let cursor = "0";
      do {
        const [next, found] = await node.scan(cursor, "MATCH", this.#keys.allPrefixes, "COUNT", 1000);
        for (const key of found) await this.#buildOf(this.#keys.userOfPrefixes(key));
        cursor = next;
      } while (cursor !== "0");
    }
    await client.set(this.#keys.sharesBuilt, "1");
  }

  async #buildOf(owner: string): Promise<void> {
    for await (const entries of this.#pairs(this.#keys.prefixes(owner))) {
      const notes = entries.flatMap(([name, value]) =>
        [...guestsIn(value)].map((guest): Note => [`${guest}/${name}`, ""]),
      );
      for (let round = 0; round < ROUNDS && notes.length > 0; round++)
        if ((await this.#settleSome(owner, notes)).settled) break;
    }
  }

  async #settleSome(owner: string, notes: readonly Note[]): Promise<{ settled: boolean; struck: boolean }> {
    const byGuest = new Map<string, Set<string>>();
    for (const [field] of notes) {
      const { guest, name } = parseField(field);
      byGuest.set(guest, (byGuest.get(guest) ?? new Set()).add(name));
    }
    // Read the counts first: what is added after the records are read is not removed.
    const counts = await this.#counts([...byGuest.keys()]);
    const names = [...new Set(notes.map(([field]) => parseField(field).name))];
    const values = await this.#connection.client.hmget(this.#keys.prefixes(owner), ...names);
    const letsIn = new Map(names.map((name, i) => [name, guestsIn(values[i] ?? null)]));
    const open = new Set<string>();
    let struck = false;
    await Promise.all(
      [...byGuest].map(async ([guest, of]) => {
        const keys = [...of].map((name) => ({ user: owner, name }));
        const [added, dropped] = [
          keys.filter(({ name }) => letsIn.get(name)!.has(guest)),
          keys.filter(({ name }) => !letsIn.get(name)!.has(guest)),
        ];
        const reply = await this.#write(guest, counts.get(guest)!, added.map(keyText), dropped.map(keyText));
        if (reply === 1) return;
        open.add(guest);
        if (reply === 0) return;
        struck = true;
        await Promise.all(added.map((key) => this.#strikeOff(key, guest)));
      }),
    );
    const done = notes.filter(([field]) => !open.has(parseField(field).guest));
    if (done.length > 0) await this.#connection.run(CROSS_OFF, [this.#keys.unsettled(owner)], done.flat());
    return { settled: open.size === 0, struck };
  }

  async #counts(guests: readonly string[]): Promise<Map<string, string>> {
    const counts = await Promise.all(
      guests.map((guest) => this.#connection.client.get(this.#keys.sharedChanges(guest))),
    );
    return new Map(guests.map((guest, i) => [guest, counts[i] ?? ""]));
  }

  #write(guest: string, count: string, added: readonly string[], dropped: readonly string[]): Promise<unknown> {
    const keys = [this.#keys.shared(guest), this.#keys.sharedChanges(guest), this.#keys.removed(guest)];
    return this.#connection.run(SETTLE, keys, [count, added.length, ...added, ...dropped]);
  }

  async #strikeOff(key: PrefixKey, guest: string): Promise<void> {
    const keys = [this.#keys.prefixes(key.user), this.#keys.unsettled(key.user)];
    await this.#connection.run(STRIKE_OFF, keys, [
      key.name,
      guest,
      this.#keys.changes,
      this.#message(key),
      randomUUID(),
    ]);
  }

  /** A hash's fields and values, in batches. */
  async *#pairs(key: string): AsyncGenerator<Note[]> {
    let cursor = "0";
    do {
      const [next, flat] = await this.#connection.client.hscan(key, cursor, "COUNT", ENTRIES_AT_A_TIME);
      const pairs = Array.from({ length: flat.length / 2 }, (_, i): Note => [flat[2 * i]!, flat[2 * i + 1]!]);
      for (let at = 0; at < pairs.length; at += ENTRIES_AT_A_TIME) yield pairs.slice(at, at + ENTRIES_AT_A_TIME);
      cursor = next;
    } while (cursor !== "0");
  }
}

function guestsIn(value: string | null): Set<string> {
  return value === null ? new Set() : guestsOf(parseEntry(value).meta);
}

/** Names contain no slash; a guest's part may contain any character. */
function parseField(field: string): { guest: string; name: string } {
  const slash = field.lastIndexOf("/");
  return { guest: field.slice(0, slash), name: field.slice(slash + 1) };
}
