import { spawnSync } from "node:child_process";
import {
  appendFileSync,
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmdirSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import type { Test } from "tap";
import type { PrefixdError } from "../../src/errors.ts";
import { openLmdbStore } from "../../src/lmdb/prefix-store.ts";
import type { PrefixStore } from "../../src/prefixes/store.ts";
import { bareNode, SOURCES } from "../support/program.ts";
import { lacking } from "../support/requirements.ts";
import { record, SHAPE } from "../prefixes/records.ts";

const BIG = { ...SHAPE, layers: 16, heads: 16, headDim: 16 };
const key = (i: number) => ({ user: "ann", name: `p${i}` });

/** A small file system of its own. Root ignores permissions, so those would not do. */
function mountTmpfs(t: Test, options: string): string {
  const mount = mkdtempSync(join(tmpdir(), "prefixd-mount-"));
  const { status, stderr, error } = spawnSync("mount", ["-t", "tmpfs", "-o", options, "tmpfs", mount], {
    encoding: "utf8",
  });
  t.teardown(() => {
    if (status === 0) spawnSync("umount", ["-l", mount]);
    rmdirSync(mount);
  });
  if (status !== 0) throw error ?? new Error(stderr);
  return mount;
}

/** Puts records of about 1 MB until the store is full; how many went in. */
async function fill(store: PrefixStore, most: number): Promise<{ stored: number; error: PrefixdError | undefined }> {
  for (let i = 0; i < most; i++) {
    const error = await store.put(await record(key(i), i, { shape: BIG, length: 31 })).then(
      () => undefined,
      (error: unknown) => error as PrefixdError,
    );
    if (error !== undefined) return { stored: i, error };
  }
  return { stored: most, error: undefined };
}

/** The LMDB files of all users. */
function dataFiles(dir: string): string[] {
  return readdirSync(join(dir, "prefixes")).map((user) => join(dir, "prefixes", user, "data.mdb"));
}

async function remainsUsable(t: Test, store: PrefixStore, stored: number): Promise<void> {
  t.equal((await store.list("ann", { limit: 100 })).length, stored);
  for (let i = 0; i < stored; i++) t.ok(await store.loadKv(key(i), (await store.head(key(i)))!.digest));
  t.equal(await store.head(key(stored)), null, "nothing of the one that failed");
  t.equal(await store.delete(key(0)), true);
  t.equal(await store.delete(key(1)), true);
  await sleep(20);
  t.match(await store.put(await record(key(0), 9)), { created: true }, "room again");
}

t.test("a full disk", { skip: lacking("mount") }, async (t) => {
  const mount = mountTmpfs(t, "size=6m");
  const store = await openLmdbStore({ dir: join(mount, "lmdb") });
  t.teardown(() => store.close());
  const { stored, error } = await fill(store, 10);
  t.match(error, { code: "store_full", message: "The disk of the prefix store is full." });
  t.ok(stored >= 3, `${stored} stored`);
  await remainsUsable(t, store, stored);
});

t.test("LMDB is never given what has no room", { skip: lacking("prlimit") }, async (t) => {
  const child = new URL("./full-disk-child.ts", import.meta.url).pathname;
  const [program, args] = bareNode(...SOURCES, child, t.testdir(), String(400 << 10));
  const { status, signal, stdout, stderr } = spawnSync(program, args, {
    encoding: "utf8",
  });
  t.same({ status, signal, stderr }, { status: 0, signal: null, stderr: "" }, "it would print Write error");
  const { stored, refused } = JSON.parse(stdout) as { stored: number; refused: number };
  t.ok(stored > 20 && refused > 20, stdout);
});

t.test("a folder that cannot be one", async (t) => {
  const file = join(t.testdir({ file: "x" }), "file");
  const error = await openLmdbStore({ dir: file }).catch((error: unknown) => error);
  t.match(error, { code: "store_unavailable", status: 503, retryAfter: 5 });
  t.notMatch((error as PrefixdError).message, /EEXIST|tmp|\//, "no path for the client");
  t.match(String((error as PrefixdError).cause), /EEXIST|ENOTDIR/);
});

t.test("a read-only folder", { skip: lacking("mount") }, async (t) => {
  const mount = mountTmpfs(t, "ro,size=1m");
  await t.rejects(openLmdbStore({ dir: mount }), { code: "store_unavailable" });
});

t.test("a file that is not LMDB's, and one of another format", async (t) => {
  const dir = t.testdir();
  const other = { user: "bob", name: "p" };
  const damaged = await openLmdbStore({ dir: join(dir, "damaged") });
  await damaged.put(await record(key(0), 1));
  await damaged.close();
  const [file] = dataFiles(join(dir, "damaged"));
  writeFileSync(file!, Buffer.alloc(20_000, 0x5a));
  const reopened = await openLmdbStore({ dir: join(dir, "damaged") });
  await t.rejects(reopened.head(key(0)), { code: "store_unavailable" });
  await t.rejects(reopened.put(await record(key(0), 1)), { code: "store_unavailable" });
  t.match(await reopened.put(await record(other, 1)), { created: true }, "other users have files of their own");
  await reopened.close();
  const sound = await openLmdbStore({ dir: join(dir, "sound") });
  await sound.put(await record(key(0), 1));
  await sound.close();
  appendFileSync(dataFiles(join(dir, "sound"))[0]!, "torn");
  const again = await openLmdbStore({ dir: join(dir, "sound") });
  t.ok(await again.head(key(0)));
  await again.close();
  await again.close();
});

t.test(
  "a disk without a byte left: a new user, who needs new files, is refused",
  { skip: lacking("mount") },
  async (t) => {
    const mount = mountTmpfs(t, "size=4m");
    const store = await openLmdbStore({ dir: join(mount, "lmdb") });
    t.teardown(() => store.close());
    await store.put(await record(key(0), 1, { shape: BIG, length: 31 }));
    const filler = openSync(join(mount, "filler"), "w");
    for (const bytes of [1 << 16, 1 << 12, 1]) while (written(filler, bytes));
    const other = { user: "bob", name: "p" };
    await t.rejects(store.put(await record(other, 1)), { code: "store_full" });
    t.equal(await store.head(other), null, "nothing of it is left");
    t.ok(await store.head(key(0)), "the others are served");
    closeSync(filler);
    t.match(await store.deleteUser("ann"), { prefixes: 1 });
    t.match(await store.put(await record(other, 1)), { created: true }, "a removed user's files have made room");
  },
);

t.test("a disk with room for a new user's lock file and not for data", { skip: lacking("mount") }, async (t) => {
  const mount = mountTmpfs(t, "size=4m");
  const store = await openLmdbStore({ dir: join(mount, "lmdb") });
  t.teardown(() => store.close());
  const path = join(mount, "filler");
  const filler = openSync(path, "w");
  for (const bytes of [1 << 16, 1 << 12, 1]) while (written(filler, bytes));
  closeSync(filler);
  truncateSync(path, statSync(path).size - (16 << 10));
  await t.rejects(store.put(await record(key(0), 1)), { code: "store_full" });
});

function written(file: number, bytes: number): boolean {
  try {
    return writeSync(file, Buffer.alloc(bytes)) > 0;
  } catch {
    return false;
  }
}
