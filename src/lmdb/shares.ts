import { JsonTable } from "./json-table.ts";
import { RewrittenLmdb } from "./rewritten.ts";
import { sharesFolder } from "./prefix-files.ts";
import { compareTexts, keyText, parseKeyText } from "../prefixes/name.ts";
import { EVERYONE } from "../prefixes/sharing.ts";
import type { PrefixKey } from "../prefixes/store.ts";

interface Databases {
  /** guest/owner/name -> true */
  readonly shares: JsonTable<true>;
  /** "built": every shared prefix has its entries */
  readonly state: JsonTable<true>;
}

/**
 * Index of the prefixes shared with a user, and with everyone, over all owners' environments, in `DIR/shares`. An entry
 * is a hint: it is written before the record that grants access, and removed after the record that revokes it, both
 * under the write lock of the owner's environment. After a crash there may be too many entries, but never too few;
 * readers check the record.
 */
export class LmdbShares {
  readonly #file: RewrittenLmdb<Databases>;

  /** @param options `built`: nothing can have been shared yet */
  constructor(dir: string, { built = false }: { built?: boolean } = {}) {
    this.#file = new RewrittenLmdb({
      dir: sharesFolder(dir),
      maxDbs: 2,
      what: "prefix store",
      databases: (root) => ({ shares: new JsonTable(root, "shares"), state: new JsonTable(root, "state") }),
    });
    if (built) this.setBuilt();
  }

  /** False if the folder predates the index. */
  isBuilt(): boolean {
    return this.#file.read().state.get("built") === true;
  }

  setBuilt(): void {
    if (!this.isBuilt()) this.#file.write(({ state }) => state.put("built", true));
  }

  add(key: PrefixKey, guests: readonly string[]): void {
    if (guests.length === 0) return;
    this.#file.write(({ shares }) => {
      for (const guest of guests) shares.put(entryOf(guest, key), true);
    });
  }

  remove(key: PrefixKey, guests: readonly string[]): void {
    if (guests.length === 0) return;
    this.#file.write(({ shares }) => {
      for (const guest of guests) shares.remove(entryOf(guest, key));
    });
  }

  /** Keys of others' prefixes that a user may have access to, in order after `after` (a key's text). */
  page(user: string, after: string | null, limit: number): PrefixKey[] {
    const { shares } = this.#file.read();
    const found = new Set<string>();
    for (const guest of [user, EVERYONE]) {
      const [start, end] = [`${encodeURIComponent(guest)}/`, `${encodeURIComponent(guest)}0`];
      // The user's own entries are adjacent and skipped at once. "0" is the character after "/".
      const own = start + encodeURIComponent(user);
      const from = after === null ? start : start + after;
      let room = limit;
      for (const range of [
        { start: from, end: `${own}/` },
        { start: from > `${own}0` ? from : `${own}0`, end },
      ]) {
        if (range.start >= range.end || room === 0) continue;
        for (const entry of shares.keys({
          ...range,
          limit: room,
          exclusiveStart: range.start === from && after !== null,
        })) {
          found.add(entry.slice(start.length));
          room--;
        }
      }
    }
    return [...found].sort(compareTexts).slice(0, limit).map(parseKeyText);
  }

  /** All prefixes shared with the user by name. */
  sharedWith(user: string): PrefixKey[] {
    const guest = encodeURIComponent(user);
    const keys = this.#file.read().shares.keys({ start: `${guest}/`, end: `${guest}0` });
    return [...keys].map((entry) => parseKeyText(entry.slice(guest.length + 1)));
  }

  owners(): Set<string> {
    return new Set([...this.#file.read().shares.keys()].map((entry) => ownerOf(entry)));
  }

  /** Removes every byte of entries with one of the users as owner or guest. */
  removeUsers(users: ReadonlySet<string>): void {
    const names = new Set([...users].map(encodeURIComponent));
    const has = (entry: string): boolean => names.has(entry.slice(0, entry.indexOf("/"))) || users.has(ownerOf(entry));
    const entries = this.#file.read().shares.keys();
    if (![...entries].some(has)) return;
    this.#file.rewrite((old, fresh) => {
      for (const entry of old.shares.keys()) if (!has(entry)) fresh.shares.put(entry, true);
      for (const { key, value } of old.state.entries()) fresh.state.put(key, value);
    });
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

function entryOf(guest: string, key: PrefixKey): string {
  return `${encodeURIComponent(guest)}/${keyText(key)}`;
}

function ownerOf(entry: string): string {
  return parseKeyText(entry.slice(entry.indexOf("/") + 1)).user;
}
