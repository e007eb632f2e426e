import { PrefixdError } from "../errors.ts";
import type { PrefixMeta, PrefixStore } from "../prefixes/store.ts";
import type { UserStore } from "../users/store.ts";
import type { User } from "../users/types.ts";
import { toCounts, usageRowName } from "../users/usage-counts.ts";
import { ADMIN_USER, isBuiltInUser, LOCAL_USER, noSuchUser } from "../users/user-id.ts";
import { VERSION } from "../version.ts";
import { filePart, FORMAT, KV_PART, type ArchiveRecord } from "./records.ts";
import { ArchiveWriter, sha256 } from "./writer.ts";

/** What an export reads. */
export interface ArchiveSource {
  readonly users: Pick<UserStore, "getUser" | "listUsers" | "listKeys" | "usage" | "listDeletions">;
  readonly prefixes: Pick<PrefixStore, "list" | "head" | "loadKv" | "loadFile" | "removalState">;
}

export interface ExportOptions {
  /** Only these users; absent: all. */
  readonly users?: readonly string[];
  /** Called with each record before its bytes come. */
  readonly onRecord?: (record: ArchiveRecord) => void;
  /** Time of day, for the header. */
  readonly clock?: () => Date;
}

const PAGE = 100;
const USAGE_PAGE = 500;
/** Attempts at a prefix that keeps being replaced. */
const TRIES = 10;

/** A user's id, and when the user was created; null: a built-in user. */
interface Owner {
  readonly id: string;
  readonly created: string | null;
}

/**
 * The bytes of an export: first all users, then prefixes and usage user by user. Holds one prefix at a time. Each
 * prefix is of one moment; together they are not, if the store is changed meanwhile. Throws `user_not_found` for a
 * named user, `removed` if a user is removed while the user's prefixes are written, and `store_unavailable`.
 */
export async function* exportArchive(
  { users, prefixes }: ArchiveSource,
  options: ExportOptions = {},
): AsyncGenerator<Uint8Array> {
  const { users: only, onRecord, clock = () => new Date() } = options;
  const writer = new ArchiveWriter(onRecord);
  yield* writer.record({
    kind: "export",
    format: FORMAT,
    prefixd: VERSION,
    at: clock().toISOString(),
    users: only === undefined ? null : [...only],
  });
  for (let next: string | null = null, first = true; first || next !== null; first = false) {
    const page = await users.listDeletions(next);
    next = page.next;
    if (page.found.length > 0) yield* writer.record({ kind: "deletions", deletions: [...page.found] });
  }
  for await (const user of usersOf(users, only))
    yield* writer.record({ kind: "user", user, keys: await users.listKeys(user.id) });
  const created = guestTimes(users);
  for (const id of [LOCAL_USER, ADMIN_USER])
    if (only?.includes(id) !== false) yield* ownerRecords({ id, created: null });
  for await (const { id, createdAt } of usersOf(users, only)) yield* ownerRecords({ id, created: createdAt });
  yield writer.end();

  async function* ownerRecords(owner: Owner): AsyncGenerator<Uint8Array> {
    for await (const name of namesOf(prefixes, owner.id)) {
      const found = await readPrefix(prefixes, owner, name, created);
      if (found === null) continue;
      for await (const bytes of writer.record(found.record, found.parts)) {
        // What has been read may outlive the user; it does not leave here then.
        if ((await prefixes.removalState(owner.id)) !== null)
          throw new PrefixdError("removed", "A user was removed during the export; repeat it.");
        yield bytes;
      }
    }
    yield* usageRecords(users, owner, writer);
  }
}

async function* usersOf(users: ArchiveSource["users"], only: readonly string[] | undefined): AsyncGenerator<User> {
  if (only !== undefined) {
    for (const id of new Set(only)) {
      if (isBuiltInUser(id)) continue;
      const user = await users.getUser(id);
      if (user === null) throw noSuchUser();
      yield user;
    }
    return;
  }
  for (let after: string | undefined; ; ) {
    const page = await users.listUsers({ limit: PAGE, ...(after === undefined ? {} : { after }) });
    yield* page;
    if (page.length < PAGE) return;
    after = page.at(-1)!.id;
  }
}

async function* namesOf(prefixes: ArchiveSource["prefixes"], user: string): AsyncGenerator<string> {
  for (let after: string | undefined; ; ) {
    const page = await prefixes.list(user, { limit: PAGE, ...(after === undefined ? {} : { after }) });
    for (const { name } of page) yield name;
    if (page.length < PAGE) return;
    after = page.at(-1)!.name;
  }
}

/** One version of a prefix, whole; null if it is gone. */
async function readPrefix(
  prefixes: ArchiveSource["prefixes"],
  owner: Owner,
  name: string,
  created: (id: string) => Promise<string | null>,
): Promise<{ record: ArchiveRecord; parts: Uint8Array[] } | null> {
  const key = { user: owner.id, name };
  for (let attempt = 0; attempt < TRIES; attempt++) {
    const meta = await prefixes.head(key);
    if (meta === null) return null;
    const parts = await readParts(prefixes, meta);
    const now = await prefixes.head(key);
    if (now?.digest !== meta.digest || now.updatedAt !== meta.updatedAt) continue;
    if (parts === null) return { record: { kind: "damaged", ...key }, parts: [] };
    const guests: Record<string, string | null> = {};
    for (const guest of new Set([...(meta.shared_with ?? []), ...(meta.readable_by ?? [])]))
      guests[guest] = await created(guest);
    const described = [];
    for (const [name, bytes] of parts) described.push({ name, bytes: bytes.length, sha256: await sha256(bytes) });
    return {
      record: { kind: "prefix", created: owner.created, meta: plainMeta(meta), guests, parts: described },
      parts: [...parts.values()],
    };
  }
  throw new PrefixdError("store_unavailable", `The prefix ${owner.id}/${name} keeps being replaced.`, {
    retryAfter: 1,
  });
}

/** null if the version is gone, or the store has lost a part of it. */
async function readParts(
  prefixes: ArchiveSource["prefixes"],
  meta: PrefixMeta,
): Promise<Map<string, Uint8Array> | null> {
  try {
    const kv = await prefixes.loadKv(meta, meta.digest);
    if (kv?.length !== meta.bytes) return null;
    const parts = new Map([[KV_PART, kv]]);
    for (const [file, bytes] of Object.entries(meta.files)) {
      const content = await prefixes.loadFile(meta, meta.digest, file);
      if (content?.length !== bytes) return null;
      parts.set(filePart(file), content);
    }
    return parts;
  } catch (error) {
    if (error instanceof PrefixdError && error.code === "prefix_damaged") return null;
    throw error;
  }
}

async function* usageRecords(
  users: ArchiveSource["users"],
  { id, created }: Owner,
  writer: ArchiveWriter,
): AsyncGenerator<Uint8Array> {
  for (let after: string | undefined; ; ) {
    const page = await users.usage(id, { limit: USAGE_PAGE, ...(after === undefined ? {} : { after }) });
    if (page.length > 0)
      yield* writer.record({
        kind: "usage",
        user: id,
        created,
        rows: page.map((row) => ({ prefix: row.prefix, day: row.day, counts: [...toCounts(row)] })),
      });
    if (page.length < USAGE_PAGE) return;
    after = usageRowName(page.at(-1)!);
  }
}

/** When users were created, asked once for each; null: no such user. Forgets when many have been asked for. */
export function guestTimes(users: Pick<UserStore, "getUser">): (id: string) => Promise<string | null> {
  const known = new Map<string, string | null>();
  return async (id) => {
    const found = known.get(id);
    if (found !== undefined) return found;
    const created = (await users.getUser(id))?.createdAt ?? null;
    if (known.size >= 10_000) known.clear();
    known.set(id, created);
    return created;
  };
}

/** Copies the lists: a record's are not readonly. */
function plainMeta({ shared_with, readable_by, ...meta }: PrefixMeta): PrefixMeta & {
  shared_with?: string[];
  readable_by?: string[];
} {
  return {
    ...meta,
    ...(shared_with === undefined ? {} : { shared_with: [...shared_with] }),
    ...(readable_by === undefined ? {} : { readable_by: [...readable_by] }),
  };
}
