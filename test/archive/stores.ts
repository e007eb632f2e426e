/** Stores with something in them, and what is in them as records. */
import type { Test } from "tap";
import { exportArchive, type ArchiveSource } from "../../src/archive/export.ts";
import type { ArchiveTarget } from "../../src/archive/import.ts";
import { readArchive, type ReadRecord } from "../../src/archive/reader.ts";
import { openLmdbStore } from "../../src/lmdb/prefix-store.ts";
import { openLmdbUserStore } from "../../src/lmdb/user-store.ts";
import type { PrefixStore } from "../../src/prefixes/store.ts";
import { openRedisStore } from "../../src/redis/prefix-store.ts";
import { openRedisUserStore } from "../../src/redis/user-store.ts";
import type { UserStore } from "../../src/users/store.ts";
import { apiKey, usageRow, user } from "../contract/user-store.ts";
import { record } from "../prefixes/records.ts";

export interface Stores extends ArchiveSource, ArchiveTarget {
  readonly users: UserStore;
  readonly prefixes: PrefixStore;
  close(): Promise<void>;
}

/** `lmdb:DIR` or a Redis' URL; closed at the test's end. */
export async function openStores(t: Test, at: string): Promise<Stores> {
  const stores = await openAt(at);
  t.teardown(() => stores.close());
  return stores;
}

/** The same for a process that ends by itself. */
export async function openAt(at: string): Promise<Stores> {
  const isFolder = at.startsWith("lmdb:");
  const options = { dir: at.slice("lmdb:".length), url: at };
  const prefixes = await (isFolder ? openLmdbStore(options) : openRedisStore(options));
  const users = await (isFolder ? openLmdbUserStore(options) : openRedisUserStore(options));
  let closed: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    await prefixes.close();
    await users.close();
  };
  return { prefixes, users, close: () => (closed ??= close()) };
}

/** Ann and bob with keys, prefixes shared in every way, also the admin's, and usage. */
export async function fill({ users, prefixes }: Stores): Promise<void> {
  await users.createUser({ ...user("ann"), weight: 2.5, limits: { ...user("ann").limits, max_prefixes: 9 } });
  await users.createUser({ ...user("bob"), suspended: true, createdAt: "2026-02-01T00:00:00.000Z" });
  for (const owner of ["ann", "ann", "bob"]) await users.putKey(apiKey(owner));
  for (const [owner, name, seed] of [
    ["ann", "p", 1],
    ["ann", "q", 2],
    ["bob", "p", 3],
    ["admin", "r", 4],
  ] as const)
    await prefixes.put(await record({ user: owner, name }, seed));
  const files = new Map([["prompt.json", Buffer.from("{}")]]);
  await prefixes.put(
    await record({ user: "ann", name: "empty-file" }, 5, { files: files.set("empty", Buffer.alloc(0)) }),
  );
  await prefixes.patchMeta({ user: "ann", name: "p" }, { shared_with: ["bob", "admin"], readable_by: ["bob"] });
  await prefixes.patchMeta({ user: "admin", name: "r" }, { visibility: "shared" });
  const days = Array.from({ length: 3 }, (_, i) => `2026-01-0${i + 1}`);
  await users.addUsage(days.flatMap((day, i) => ["p", "q", null].map((prefix) => usageRow("ann", prefix, day, i + 1))));
  await users.addUsage([usageRow("admin", "r", "2026-01-31"), usageRow("bob", null, "2026-01-31", 7)]);
}

export const AT = new Date("2026-03-01T00:00:00.000Z");

export async function archiveOf(source: ArchiveSource, options: { users?: string[] } = {}): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of exportArchive(source, { ...options, clock: () => AT })) pieces.push(Buffer.from(piece));
  return Buffer.concat(pieces);
}

/** The bytes in pieces of this many. */
export async function* inPieces(bytes: Uint8Array, length = 1 << 16): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += length) yield bytes.subarray(at, at + length);
}

export const read = (archive: Uint8Array, length?: number): AsyncGenerator<ReadRecord> =>
  readArchive(inPieces(archive, length));

/** What a store holds, apart from what it remembers of deletions; sharing with nobody is the same in every form. */
export async function contentsOf(source: ArchiveSource): Promise<unknown[]> {
  const records: unknown[] = [];
  for await (const { record, parts } of read(await archiveOf(source)))
    if (record.kind === "prefix") {
      const meta = { visibility: "private", shared_with: [], readable_by: [], ...record.meta };
      records.push([{ ...record, meta }, parts.map((part) => Buffer.from(part).toString("base64"))]);
    } else if (record.kind !== "end" && record.kind !== "deletions") records.push(record);
  return records;
}
