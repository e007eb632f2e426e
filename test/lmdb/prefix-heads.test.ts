/** What was said of a prefix is believed as long as nobody has written, and no longer. */
import { mkdtempSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import t from "tap";
import { userFile } from "../../src/lmdb/prefix-files.ts";
import { KnownHeads } from "../../src/lmdb/prefix-heads.ts";
import { openLmdbStore } from "../../src/lmdb/prefix-store.ts";
import type { PrefixMeta } from "../../src/prefixes/store.ts";
import { record } from "../prefixes/records.ts";

const USER = "ann";
const key = { user: USER, name: "one" };
/** So much later every write is over. */
const LATER_MS = 5000;

t.test("a file written just now is not trusted; one at rest is, until anybody writes to it again", async (t) => {
  const dir = mkdtempSync(join(t.testdir(), "lmdb."));
  const store = await openLmdbStore({ dir });
  const other = await openLmdbStore({ dir });
  t.teardown(() => Promise.all([store.close(), other.close()]));
  const path = (user: string): string => userFile(dir, user);
  let ahead = 0;
  const heads = new KnownHeads(path, () => Date.now() + ahead);
  t.equal(heads.fileOf(USER), null, "no file yet");

  await store.put(await record(key, 1));
  t.equal(heads.fileOf(USER), null, "written just now");
  const first = (await store.head(key)) as PrefixMeta;
  heads.keep(key, null, first);
  ahead = LATER_MS;
  const file = heads.fileOf(USER);
  t.type(file, "string");
  t.equal(heads.get(key, file), null, "nothing was kept of a file not at rest");
  heads.keep(key, file, first);
  t.equal(heads.get(key, file), first);
  t.equal(heads.get({ ...key, name: "two" }, file), null);

  await store.head(key);
  await store.loadKv(key, first.digest);
  await store.list(USER, { limit: 5 });
  t.equal(heads.get(key, heads.fileOf(USER)), first, "reading changes nothing");

  for (const write of [
    async (): Promise<unknown> => other.put(await record(key, 2)),
    (): Promise<unknown> => other.patchMeta(key, { visibility: "shared" }),
    (): Promise<unknown> => other.delete(key),
  ]) {
    const before = heads.fileOf(USER);
    heads.keep(key, before, first);
    t.equal(heads.get(key, before), first);
    // File times go by the ticks of a clock.
    await sleep(20);
    await write();
    t.equal(heads.get(key, heads.fileOf(USER)), null, "another process has written");
    heads.keep(key, before, first);
    t.equal(heads.get(key, before), null, "what was asked before a write and answered after it is not kept");
  }
  heads.keep(key, heads.fileOf(USER), first);
  heads.forgetUser(USER);
  t.equal(heads.get(key, heads.fileOf(USER)), null);
  heads.keep(key, heads.fileOf(USER), first);
  await other.deleteUser(USER);
  t.equal(statSync(path(USER), { throwIfNoEntry: false }), undefined);
  t.equal(heads.get(key, heads.fileOf(USER)), null, "the user is gone");
});

t.test("a path that cannot be examined is not trusted", async (t) => {
  const heads = new KnownHeads(() => join(t.testdir({ file: "" }), "file", "below"));
  t.equal(heads.fileOf(USER), null);
});

t.test("a store at rest returns what another process has just written", async (t) => {
  const dir = mkdtempSync(join(t.testdir(), "lmdb."));
  const store = await openLmdbStore({ dir });
  const other = await openLmdbStore({ dir });
  t.teardown(() => Promise.all([store.close(), other.close()]));
  await store.put(await record(key, 1));
  await sleep(1100);
  const first = await store.head(key);
  t.equal(await store.head(key), first, "the same object: not asked again");
  await other.put(await record(key, 2));
  const second = await store.head(key);
  t.not(second?.digest, first?.digest);
  await other.delete(key);
  t.equal(await store.head(key), null);
});

t.test("a closed store answers nothing from memory", async (t) => {
  const store = await openLmdbStore({ dir: mkdtempSync(join(t.testdir(), "lmdb.")) });
  await store.put(await record(key, 1));
  await sleep(1100);
  // The first look keeps it, the second is answered without the store's thread.
  t.same(await store.head(key), await store.head(key));
  await store.close();
  await t.rejects(store.head(key), { code: "store_unavailable" });
});

t.test(
  "a prefix that the asker may not use is looked up on the store's thread, like one that does not exist",
  async (t) => {
    const store = await openLmdbStore({ dir: mkdtempSync(join(t.testdir(), "lmdb.")) });
    t.teardown(() => store.close());
    await store.put(await record(key, 1));
    await store.patchMeta(key, { shared_with: ["friend"] });
    await sleep(1100);
    await store.head(key);
    const calls = t.capture(Worker.prototype, "postMessage", Reflect.get(Worker.prototype, "postMessage"));
    const trips = async (asked: { user: string; name: string }, asker?: string): Promise<number> => {
      await store.head(asked, asker);
      return calls().length;
    };
    const unknown = { ...key, name: "unknown" };
    for (let i = 0; i < 2; i++) {
      t.equal(await trips(key), 0, "its owner");
      t.equal(await trips(key, "friend"), 0, "who may use it");
      t.equal(await trips(key, "stranger"), 1, "who may not");
      t.equal(await trips(unknown, "stranger"), 1, "another's that does not exist");
      t.equal(await trips({ user: "nobody", name: "unknown" }, "stranger"), 1, "of a user who does not exist");
      t.equal(await trips(unknown), 1, "one's own that does not exist");
    }
  },
);
