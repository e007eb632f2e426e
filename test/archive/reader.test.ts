import { createHash } from "node:crypto";
import { join } from "node:path";
import t from "tap";
import { importArchive } from "../../src/archive/import.ts";
import { record } from "../prefixes/records.ts";
import { archiveOf, contentsOf, fill, inPieces, openStores, read } from "./stores.ts";
import { readArchive } from "../../src/archive/reader.ts";

const dir = t.testdir();
const source = await openStores(t, `lmdb:${join(dir, "source")}`);
await fill(source);
const archive = await archiveOf(source);

async function readAll(bytes: Uint8Array, length?: number): Promise<number> {
  const kinds: string[] = [];
  for await (const { record } of read(bytes, length)) kinds.push(record.kind);
  return kinds.length;
}

/** A line as an export has it, its digest right. */
function line(value: unknown): Buffer {
  const json = JSON.stringify(value);
  return Buffer.from(`${createHash("sha256").update(json).digest("hex")} ${json}\n`);
}

t.test("the same records, however the bytes come", async (t) => {
  const count = await readAll(archive);
  for (const length of [1, 7, 4096]) t.equal(await readAll(archive, length), count);
});

t.test("a flipped bit anywhere is found", async (t) => {
  for (let at = 0; at < archive.length; at += 37) {
    const flipped = Buffer.from(archive);
    flipped[at]! ^= 1 << (at % 8);
    await t.rejects(readAll(flipped), { name: "ArchiveError" }, `at byte ${at}`);
  }
});

t.test("a file that ends early is refused with the place, and so is one that goes on", async (t) => {
  for (let length = 0; length < archive.length; length += 53)
    await t.rejects(readAll(archive.subarray(0, length)), {
      name: "ArchiveError",
      message: new RegExp(`byte ${length}$`),
    });
  await t.rejects(readAll(archive.subarray(0, -1)), /is cut off/);
  await t.rejects(readAll(Buffer.concat([archive, Buffer.from("x")])), /something follows the export's end/);
  await t.rejects(readAll(Buffer.concat([archive, archive])), /something follows/);
});

t.test("lines that are left out or come in another order are found by the digest of the whole", async (t) => {
  const lines = archive.toString("latin1").split("\n");
  const users = lines.findIndex((text) => text.includes('"kind":"user"'));
  const swapped = [...lines];
  [swapped[users], swapped[users + 1]] = [swapped[users + 1]!, swapped[users]!];
  await t.rejects(readAll(Buffer.from(swapped.join("\n"), "latin1")), /another digest of the whole/);
  await t.rejects(readAll(Buffer.from(lines.toSpliced(users, 1).join("\n"), "latin1")), /another digest of the whole/);
});

t.test("what is no export, or one of another version, is refused as such", async (t) => {
  const header = { kind: "export", format: 1, prefixd: "9.9.9", at: "2026-01-01T00:00:00.000Z", users: null };
  await t.rejects(readAll(Buffer.from("hello\n")), /record 1, at byte 0, is not as it was written/);
  await t.rejects(readAll(Buffer.alloc(5 << 20, "x")), /is not a line of an export/);
  await t.rejects(readAll(line({ kind: "deletions", deletions: [] })), /does not begin as one/);
  await t.rejects(readAll(line({ ...header, format: 2 })), /is of format 2, written by prefixd 9\.9\.9/);
  await t.rejects(readAll(line({ ...header, at: "yesterday" })), /a record of kind export, is not valid at \/at/);
  await t.rejects(readAll(Buffer.concat([line(header), line(header)])), /begins another export/);
  await t.rejects(readAll(Buffer.concat([line(header), line({ kind: "later" })])), /of a kind that this version knows/);
});

t.test("of an import that ends in the middle every prefix is whole, and the next one goes on", async (t) => {
  const target = await openStores(t, `lmdb:${join(dir, "target")}`);
  const whole = await contentsOf(source);
  for (const part of [0.3, 0.6, 0.9]) {
    const cut = archive.subarray(0, Math.floor(archive.length * part));
    await t.rejects(importArchive(read(cut), target), { name: "ArchiveError" });
    for (const { user, name } of (
      await Promise.all(["ann", "bob"].map((id) => target.prefixes.list(id, { limit: 9 })))
    ).flat()) {
      const [there, meant] = [await target.prefixes.head({ user, name }), await source.prefixes.head({ user, name })];
      t.equal(there?.digest, meant?.digest);
      t.same(await target.prefixes.loadKv(there!, there!.digest), await source.prefixes.loadKv(meant!, meant!.digest));
    }
  }
  await importArchive(read(archive), target);
  t.same(await contentsOf(target), whole);
});

t.test("a prefix with other parts than it names is refused", async (t) => {
  const target = await openStores(t, `lmdb:${join(dir, "parts")}`);
  const put = await record({ user: "admin", name: "p" }, 1);
  const prefix = { kind: "prefix", created: null, meta: put.meta, guests: {}, parts: [] };
  const bytes = Buffer.concat([
    line({ kind: "export", format: 1, prefixd: "0", at: "2026-01-01T00:00:00.000Z", users: null }),
    line(prefix),
  ]);
  await t.rejects(importArchive(readArchive(inPieces(bytes)), target), /"admin\/p" has other parts than it names/);
  t.equal(await target.prefixes.head(put.meta), null);
});
