import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { open } from "lmdb";
import t from "tap";
import { LmdbShares } from "../../src/lmdb/shares.ts";
import { openLmdbStore } from "../../src/lmdb/prefix-store.ts";
import { keyText } from "../../src/prefixes/name.ts";
import type { PrefixRecord, PrefixStore } from "../../src/prefixes/store.ts";
import { prefixStoreContract } from "../contract/prefix-store.ts";
import { record } from "../prefixes/records.ts";

t.test("LMDB keeps the contract", (t) => {
  prefixStoreContract(t, async (t) => {
    const dir = mkdtempSync(join(t.testdir(), "lmdb."));
    return () => openLmdbStore({ dir });
  });
  t.end();
});

t.test("stores that create a user's environment at the same time share one", async (t) => {
  const dir = t.testdir();
  const stores: PrefixStore[] = [];
  for (let i = 0; i < 3; i++) stores.push(await openLmdbStore({ dir }));
  t.teardown(async () => {
    for (const store of stores) await store.close();
  });
  for (let i = 0; i < 50; i++) {
    const user = `u${i}`;
    const puts = await Promise.all(stores.map((_, n) => record({ user, name: `p${n}` }, n)));
    await Promise.all(stores.map((store, n) => store.put(puts[n]!)));
    t.equal((await stores[0]!.list(user, { limit: 9 })).length, stores.length);
  }
});

/** A record of so many bytes, half of them tensors. */
async function large(name: string, bytes: number): Promise<PrefixRecord> {
  const { meta } = await record({ user: "ann", name }, 1);
  const [kv, file] = [new Uint8Array(bytes / 2).fill(1), new Uint8Array(bytes / 2).fill(2)];
  return { meta: { ...meta, bytes: kv.length, files: { f: file.length } }, kv, files: new Map([["f", file]]) };
}

t.test("a large record goes to the thread without being copied in one turn of the event loop", async (t) => {
  const store = await openLmdbStore({ dir: t.testdir() });
  t.teardown(() => store.close());
  const put = await large("p", 32 << 20);
  let turns = 0;
  const count = (): void => {
    turns++;
    counting = setImmediate(count);
  };
  let counting = setImmediate(count);
  t.teardown(() => clearImmediate(counting));
  const sent: { turns: number; memory: string[] }[] = [];
  const postMessage = Reflect.get(Worker.prototype, "postMessage") as (this: Worker, ...args: unknown[]) => void;
  t.teardown(() => void (Worker.prototype.postMessage = postMessage));
  Worker.prototype.postMessage = function (message: { method: string; args: [PrefixRecord] }, ...rest) {
    if (message.method === "put") {
      const [{ kv, files }] = message.args;
      sent.push({ turns, memory: [kv, ...files.values()].map(({ buffer }) => buffer.constructor.name) });
    }
    postMessage.call(this, message, ...rest);
  };
  await store.put(put);
  t.equal(sent.length, 1);
  t.same(sent[0]!.memory, ["SharedArrayBuffer", "SharedArrayBuffer"], "which is not copied when it is sent");
  t.ok(sent[0]!.turns >= 12, "and was filled in slices");
  t.ok(Buffer.from((await store.loadKv(put.meta, put.meta.digest))!).equals(put.kv));
  t.ok(Buffer.from((await store.loadFile(put.meta, put.meta.digest, "f"))!).equals(put.files.get("f")!));
});

t.test("a user removed while a record is on its way to the thread", async (t) => {
  const store = await openLmdbStore({ dir: t.testdir() });
  t.teardown(() => store.close());
  const put = store.put(await large("p", 32 << 20));
  const removed = store.deleteUser("ann");
  await t.rejects(put, { code: "removed" });
  t.same(await removed, { prefixes: 0, bytes: 0 });
  t.same(await store.held("ann"), { prefixes: 0, bytes: 0 });
});

t.test("a user's totals are counted once in a store that predates them", async (t) => {
  const dir = t.testdir();
  const store = await openLmdbStore({ dir });
  const puts = await Promise.all([1, 2, 3].map((i) => record({ user: "ann", name: `p${i}` }, i, { length: i })));
  for (const put of puts) await store.put(put);
  await store.close();
  const [folder] = readdirSync(join(dir, "prefixes"));
  const root = open({ path: join(dir, "prefixes", folder!), noSubdir: false, maxDbs: 3, encoding: "binary" });
  t.equal(root.openDB({ name: "info", encoding: "binary" }).removeSync("held"), true);
  await root.close();
  const again = await openLmdbStore({ dir });
  t.teardown(() => again.close());
  const bytes = puts.reduce((sum, { meta }) => sum + meta.bytes, 0);
  t.same(await again.held("ann"), { prefixes: 3, bytes });
  await t.rejects(
    again.put(await record({ user: "ann", name: "p4" }, 4), { quota: { max_prefixes: 3, max_prefix_bytes: null } }),
    { code: "quota_exceeded" },
  );
  await again.delete(puts[0]!.meta);
  t.same(await again.held("ann"), { prefixes: 2, bytes: bytes - puts[0]!.meta.bytes });
});

t.test("the index of shared prefixes is built once, and repaired after a crash", async (t) => {
  const dir = t.testdir();
  const open = async (work: (store: PrefixStore) => Promise<void>): Promise<void> => {
    const store = await openLmdbStore({ dir });
    await work(store);
    await store.close();
  };
  const entries = async (): Promise<string[]> => {
    const shares = new LmdbShares(dir);
    const keys = shares.page("bob", null, 99);
    await shares.close();
    return keys.map(keyText);
  };
  const listed = async (store: PrefixStore): Promise<string[]> =>
    (await store.listShared("bob", { limit: 9 })).map(keyText);
  await open(async (store) => {
    for (const [user, name] of [
      ["ann", "p"],
      ["ann", "q"],
      ["cat", "p"],
    ] as const)
      await store.put(await record({ user, name }, 1));
    await store.patchMeta({ user: "ann", name: "p" }, { shared_with: ["bob"] });
    await store.patchMeta({ user: "cat", name: "p" }, { visibility: "shared" });
  });
  rmSync(join(dir, "shares"), { recursive: true });
  await open(
    async (store) => void t.same(await listed(store), ["ann/p", "cat/p"], "what was shared before there was an index"),
  );

  const shares = new LmdbShares(dir);
  shares.add({ user: "ann", name: "q" }, ["bob"]);
  shares.add({ user: "ann", name: "gone" }, ["bob", "eve"]);
  shares.add({ user: "gone-for-good", name: "p" }, ["bob"]);
  await shares.close();
  t.equal((await entries()).length, 5);
  await open(
    async (store) => void t.same(await listed(store), ["ann/p", "cat/p"], "entries without a record show nothing"),
  );
  t.same(await entries(), ["ann/p", "cat/p"], "and are taken away");
  const left = readdirSync(join(dir, "shares"), { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  );
  t.notOk(
    left.some((entry) => readFileSync(join(entry.parentPath, entry.name)).includes("gone-for-good")),
    "of an owner without a file no byte stays",
  );
});
