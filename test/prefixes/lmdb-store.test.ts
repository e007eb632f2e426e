import { mkdtempSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { open } from "lmdb";
import t from "tap";
import { openLmdbStore } from "../../src/prefixes/lmdb-store.ts";
import { prefixStoreContract } from "../contract/prefix-store.ts";
import { record } from "./records.ts";

t.test("LMDB keeps the contract", (t) => {
  prefixStoreContract(t, async (t) => {
    const dir = mkdtempSync(join(t.testdir(), "lmdb."));
    return () => openLmdbStore({ dir });
  });
  t.end();
});

t.test("what a user holds is counted once where nobody has kept count of it", async (t) => {
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
  await t.rejects(again.put(await record({ user: "ann", name: "p4" }, 4), undefined, { max_prefixes: 3, max_prefix_bytes: null }), { code: "quota_exceeded" });
  await again.delete(puts[0]!.meta);
  t.same(await again.held("ann"), { prefixes: 2, bytes: bytes - puts[0]!.meta.bytes });
});
