import { mkdtempSync, readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { open } from "lmdb";
import t from "tap";
import { openLmdbUserStore } from "../../src/lmdb/user-store.ts";
import { apiKey, usageRow, user, userStoreContract } from "../contract/user-store.ts";

t.test("LMDB keeps the contract", (t) => {
  userStoreContract(t, async (t) => {
    const dir = mkdtempSync(join(t.testdir(), "lmdb."));
    return () => openLmdbUserStore({ dir });
  });
  t.end();
});

/** Every byte below a folder, as one string. */
function bytesBelow(dir: string): string {
  const files = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return files.map((entry) => readFileSync(join(entry.parentPath, entry.name), "latin1")).join("\n");
}

t.test("no byte of a removed user stays in the folder", async (t) => {
  const dir = t.testdir();
  const store = await openLmdbUserStore({ dir });
  const keys = [];
  for (const id of ["keeper", "doomed-user"]) {
    await store.createUser(user(id));
    for (let i = 0; i < 40; i++) {
      const key = apiKey(id);
      keys.push(key);
      await store.putKey(key);
      await store.addUsage([usageRow(id, `${id}-prefix`, `2026-01-${String(1 + (i % 28)).padStart(2, "0")}`)]);
    }
  }
  const deleted = keys.filter((key) => key.user === "doomed-user");
  await store.deleteKey("doomed-user", deleted[0]!.id);
  t.match(bytesBelow(dir), /doomed-user/, "the scan finds what is there");
  t.match(await store.deleteUser("doomed-user", { keepUsage: false }), { keys: 39 });
  const check = (when: string): void => {
    const bytes = bytesBelow(dir);
    t.notOk(bytes.includes("doomed-user"), when);
    for (const key of deleted) t.notOk(bytes.includes(key.hash) || bytes.includes(key.id), `key ${when}`);
    t.ok(bytes.includes("keeper"));
  };
  check("while open");
  await store.addUsage([usageRow("keeper", "p", "2026-02-01")]);
  check("after the next write");
  await store.close();
  check("closed");
  t.equal(readdirSync(join(dir, "users")).length, 2, "the pointer and one environment");
  const again = await openLmdbUserStore({ dir });
  t.equal((await again.listKeys("keeper")).length, 40);
  await again.close();
});

t.test("a file that predates the sums by day", async (t) => {
  const dir = t.testdir();
  const store = await openLmdbUserStore({ dir });
  for (const id of ["ann", "bob"]) await store.createUser(user(id));
  const rows = [null, "a/x", "b"].flatMap((prefix) =>
    ["2026-01-01", "2026-01-02"].map((day) => usageRow("ann", prefix, day)),
  );
  await store.addUsage([...rows, usageRow("bob", "p", "2026-01-01")]);
  await store.close();
  const forgetDays = async (): Promise<void> => {
    const root = open({ path: join(dir, "users", "0"), noSubdir: false, maxDbs: 5 });
    await root.openDB({ name: "usage-days", encoding: "binary" }).clearAsync();
    await root.close();
  };
  for (const first of ["reads", "adds"]) {
    await forgetDays();
    const again = await openLmdbUserStore({ dir });
    const more = first === "adds" ? 1 : 0;
    if (more === 1) await again.addUsage([usageRow("ann", "b", "2026-01-02")]);
    t.match(await again.usageSums("ann", {}), { requests: 6 + more, promptTokens: 3 * (6 + more) }, first);
    t.match(await again.usageSums("ann", { from: "2026-01-02" }), { requests: 3 + more }, first);
    t.match(await again.usageSums("bob", {}), { requests: 1 }, first);
    await again.close();
  }
});
