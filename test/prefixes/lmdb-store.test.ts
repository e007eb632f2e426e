import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { openLmdbStore } from "../../src/prefixes/lmdb-store.ts";
import { prefixStoreContract } from "../contract/prefix-store.ts";

t.test("LMDB keeps the contract", (t) => {
  prefixStoreContract(t, async (t) => {
    const dir = mkdtempSync(join(t.testdir(), "lmdb."));
    return () => openLmdbStore({ dir });
  });
  t.end();
});
