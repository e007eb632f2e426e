/** Removing a user leaves none of their bytes in any file of the store, also when the process is killed in the middle. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { openLmdbStore } from "../../src/lmdb/prefix-store.ts";
import type { PrefixRecord } from "../../src/prefixes/store.ts";
import { effort } from "../support/effort.ts";
import { bareNode, SOURCES } from "../support/program.ts";
import { record, SHAPE } from "../prefixes/records.ts";

const SECRET = "a-content-that-occurs-nowhere-else";
const VICTIM = "victim-of-a-removal";

/** Its tensors repeat one distinctive value, its file a distinctive text. */
async function marked(user: string, name: string, secret: string): Promise<PrefixRecord> {
  const made = await record({ user, name }, 1, {
    shape: { ...SHAPE, heads: 8, headDim: 16 },
    length: 20,
    files: new Map([["adapter_model.safetensors", Buffer.from(secret.repeat(2000))]]),
  });
  const kv = Buffer.alloc(made.kv.length, `KV:${secret}`);
  return { ...made, kv };
}

/** Files that hold any of the needles. */
function scan(dir: string, ...needles: string[]): string[] {
  const files = readdirSync(dir, { recursive: true })
    .map((name) => join(dir, String(name)))
    .filter((path) => statSync(path).isFile());
  return files.filter((path) => needles.some((needle) => path.includes(needle) || readFileSync(path).includes(needle)));
}

t.test("after a removal no file holds the user's name, files or tensors; others are as they were", async (t) => {
  const dir = join(t.testdir(), "lmdb");
  const store = await openLmdbStore({ dir });
  t.teardown(() => store.close());
  const others = await Promise.all([...Array(80).keys()].map((i) => marked(`other-${i}`, "p", `their content ${i}`)));
  for (const other of others) await store.put(other);
  for (let i = 0; i < 10; i++) await store.put(await marked(VICTIM, `p${i}`, `${SECRET}-${i}`));
  // Replaced and deleted versions leave free pages with their bytes behind.
  for (let i = 0; i < 10; i += 2) await store.put(await marked(VICTIM, `p${i}`, `${SECRET}-again`), { keep: i % 4 });
  await store.delete({ user: VICTIM, name: "p3" });
  for (const name of ["p1", "p2"])
    await store.patchMeta(
      { user: VICTIM, name },
      { visibility: "shared", shared_with: ["other-1"], readable_by: ["other-2"] },
    );
  await store.delete({ user: VICTIM, name: "p1" });
  t.ok(scan(dir, VICTIM, SECRET).length > 0, "the scan finds what is there");
  t.match(await store.deleteUser(VICTIM), { prefixes: 8 });
  t.same(scan(dir, VICTIM, SECRET), []);
  t.same(readdirSync(join(dir, "removed")), []);
  for (const other of others)
    t.equal(Buffer.compare((await store.loadKv(other.meta, other.meta.digest))!, other.kv), 0);
  t.same(await store.list(VICTIM, { limit: 10 }), []);
  await store.readmitUser(VICTIM);
  const anew = await marked(VICTIM, "p0", "new");
  t.match(await store.put(anew), { created: true });
  t.same(
    (await store.list(VICTIM, { limit: 10 })).map(({ name }) => name),
    ["p0"],
  );
});

t.test("the index of shared prefixes has no byte of a removed guest", async (t) => {
  const dir = join(t.testdir(), "lmdb");
  const store = await openLmdbStore({ dir });
  t.teardown(() => store.close());
  for (const name of ["p", "q"]) {
    await store.put(await record({ user: "ann", name }, 1));
    await store.patchMeta({ user: "ann", name }, { shared_with: [VICTIM, "bob"] });
  }
  await store.patchMeta({ user: "ann", name: "q" }, { shared_with: ["bob"] });
  t.ok(scan(join(dir, "shares"), VICTIM).length > 0);
  await store.deleteUser(VICTIM);
  t.same(scan(join(dir, "shares"), VICTIM), []);
  t.match(await store.head({ user: "ann", name: "p" }), { shared_with: ["bob"] });
  t.equal((await store.listShared("bob", { limit: 9 })).length, 2);
});

t.test(
  "killed at any moment of a removal: the user is whole or gone, and after the next start gone without a trace",
  async (t) => {
    const root = t.testdir();
    let [whole, gone] = [0, 0];
    for (let round = 0; round < effort({ short: 4, long: 8 }); round++) {
      const dir = join(root, `lmdb-${round}`);
      const store = await openLmdbStore({ dir });
      const records = await Promise.all([...Array(20).keys()].map((i) => marked(VICTIM, `p${i}`, SECRET)));
      const other = await marked("other", "p", "theirs");
      for (const each of [...records, other]) await store.put(each);
      await store.close();
      const source = new URL("../../src/lmdb/prefix-store.ts", import.meta.url).href;
      const script = `(async () => { const { openLmdbStore } = await import(${JSON.stringify(source)}); const s = await openLmdbStore({ dir: ${JSON.stringify(dir)} }); await s.list(${JSON.stringify(VICTIM)}, { limit: 1 }); console.log("ready"); await s.deleteUser(${JSON.stringify(VICTIM)}); console.log("done"); })();`;
      const child = spawn(...bareNode(...SOURCES, "-e", script), {
        stdio: ["ignore", "pipe", "inherit"],
      });
      const ended = once(child, "close");
      await once(child.stdout, "data");
      await sleep(round * effort({ short: 3, long: 1.5 }));
      child.kill("SIGKILL");
      await ended;
      const again = await openLmdbStore({ dir });
      const left = await again.list(VICTIM, { limit: 100 });
      if (left.length === 0) {
        gone++;
        t.same(scan(dir, VICTIM, SECRET), []);
      } else {
        whole++;
        t.equal(left.length, records.length);
        for (const { meta, kv } of records)
          if (Buffer.compare((await again.loadKv(meta, meta.digest)) ?? Buffer.alloc(0), kv) !== 0) t.fail("torn");
        await again.deleteUser(VICTIM);
        t.same(scan(dir, VICTIM, SECRET), []);
      }
      t.equal(Buffer.compare((await again.loadKv(other.meta, other.meta.digest))!, other.kv), 0);
      t.ok(existsSync(join(dir, "removed")));
      await again.close();
    }
    t.comment(`${whole} times whole, ${gone} times gone`);
  },
);
