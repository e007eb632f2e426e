import type { Test } from "tap";
import { listedFor } from "../../src/prefixes/sharing.ts";
import type { PrefixStore } from "../../src/prefixes/store.ts";
import { seededRandom } from "../../src/load/random.ts";
import { record } from "../prefixes/records.ts";
import { sharedListContract, type WithStore } from "./shared-list.ts";
import { versionsContract } from "./versions.ts";
import { bytesOf, wholeRecordsContract } from "./whole-records.ts";

/** Opens a store; every call uses the same data. */
export type OpenStore = () => Promise<PrefixStore>;

/** The contract of every PrefixStore. `make` prepares empty data; it may register teardowns on `t`. */
export function prefixStoreContract(t: Test, make: (t: Test) => Promise<OpenStore>): void {
  const withStore: WithStore = (name, body) => {
    void t.test(name, async (t) => {
      const open = await make(t);
      const store = await open();
      t.teardown(() => store.close());
      await body(t, store, open);
    });
  };
  const key = { user: "ann", name: "poem" };

  withStore("a prefix comes back as it was put", async (t, store) => {
    const put = await record(key, 1);
    t.same(await store.put(put), { created: true });
    t.same(await store.head(key), put.meta);
    t.same(bytesOf(await store.loadKv(key, put.meta.digest)), bytesOf(put.kv));
    for (const [file, content] of put.files)
      t.same(bytesOf(await store.loadFile(key, put.meta.digest, file)), bytesOf(content));
    t.equal(await store.loadFile(key, put.meta.digest, "other"), null);
    t.equal(await store.loadFile(key, put.meta.digest, "constructor"), null);
    await store.ping();
  });

  withStore("what does not exist is null, false or an empty page", async (t, store) => {
    t.equal(await store.head(key), null);
    t.equal(await store.loadKv(key, "0".repeat(64)), null);
    t.equal(await store.loadFile(key, "0".repeat(64), "adapter_config.json"), null);
    t.equal(await store.delete(key), false);
    t.same(await store.list("ann", { limit: 10 }), []);
    t.same(await store.deleteUser("ann"), { prefixes: 0, bytes: 0 });
  });

  withStore("a replaced version is gone, with the files that the new one lacks", async (t, store) => {
    const old = await record(key, 1);
    const next = await record(key, 2, { length: 5, files: new Map([["prompt.json", Buffer.from("{}")]]) });
    await store.put(old);
    t.same(await store.put(next), { created: false });
    t.same(await store.head(key), next.meta);
    t.equal(await store.loadKv(key, old.meta.digest), null);
    t.equal(await store.loadFile(key, old.meta.digest, "adapter_config.json"), null);
    t.equal(await store.loadFile(key, next.meta.digest, "adapter_config.json"), null);
    t.same(bytesOf(await store.loadKv(key, next.meta.digest)), bytesOf(next.kv));
    t.equal(await store.delete(key), true);
    t.equal(await store.head(key), null);
    t.equal(await store.loadKv(key, next.meta.digest), null);
  });

  withStore("preconditions", async (t, store) => {
    const [one, two] = [await record(key, 1), await record(key, 2)];
    const failed = { code: "precondition_failed" };
    await t.rejects(store.put(one, { precondition: { ifMatch: "*" } }), failed);
    await t.rejects(store.put(one, { precondition: { ifMatch: [one.meta.digest] } }), failed);
    await t.rejects(store.delete(key, { ifMatch: "*" }), failed);
    t.equal(await store.head(key), null, "nothing stored by a refused PUT");
    t.same(await store.put(one, { precondition: { ifNoneMatch: "*" } }), { created: true });
    await t.rejects(store.put(two, { precondition: { ifNoneMatch: "*" } }), failed);
    await t.rejects(store.put(two, { precondition: { ifMatch: [two.meta.digest] } }), failed);
    await t.rejects(store.put(two, { precondition: { ifMatch: [] } }), failed);
    t.same(await store.head(key), one.meta);
    t.same(await store.put(two, { precondition: { ifMatch: ["x", one.meta.digest] } }), { created: false });
    await t.rejects(store.delete(key, { ifMatch: [one.meta.digest] }), failed);
    t.equal(await store.delete(key, { ifMatch: [two.meta.digest] }), true);
  });

  withStore("sharing: patched by the owner, kept by a replacement, gone with the prefix", async (t, store, open) => {
    const [one, two] = [await record(key, 1), await record(key, 2)];
    t.equal(await store.patchMeta(key, { visibility: "shared" }), null);
    await store.put({
      ...one,
      meta: { ...one.meta, visibility: "shared", shared_with: ["eve"], readable_by: ["eve"] },
    });
    t.same(await store.head(key), one.meta, "a new one is private, whatever it says");
    t.same(await store.patchMeta(key, { shared_with: ["bob", "Ünïcode"] }), {
      ...one.meta,
      shared_with: ["bob", "Ünïcode"],
    });
    const shared = { visibility: "shared", shared_with: ["bob", "Ünïcode"], readable_by: ["cat"] } as const;
    t.same(await store.patchMeta(key, { readable_by: ["cat"] }), {
      ...one.meta,
      shared_with: shared.shared_with,
      readable_by: ["cat"],
    });
    t.same(await store.patchMeta(key, { visibility: "shared" }, { ifMatch: [one.meta.digest] }), {
      ...one.meta,
      ...shared,
    });
    await t.rejects(store.patchMeta(key, { visibility: "private" }, { ifMatch: [two.meta.digest] }), {
      code: "precondition_failed",
    });
    await store.put(two);
    const again = await open();
    t.teardown(() => again.close());
    t.same(await again.head(key), { ...two.meta, ...shared });
    t.same(await again.list("ann", { limit: 5 }), [listedFor("ann", { ...two.meta, ...shared })]);
    const nobody = { visibility: "private", shared_with: [], readable_by: [] } as const;
    t.same(await store.patchMeta(key, nobody), { ...two.meta, ...nobody });
    t.equal(await store.delete(key), true);
    await store.put(one);
    t.same(await store.head(key), one.meta, "a new prefix of the name is private");
    await store.patchMeta(key, shared);
    await store.deleteUser("ann");
    await store.readmitUser("ann");
    await store.put(one);
    t.same(await store.head(key), one.meta);
  });

  withStore("quotas hold also under concurrent PUTs", async (t, store, open) => {
    const second = await open();
    t.teardown(() => second.close());
    const exceeded = { code: "quota_exceeded", status: 403 };
    const records = await Promise.all(Array.from({ length: 10 }, (_, i) => record({ user: "ann", name: `p${i}` }, i)));
    const count = { max_prefixes: 3, max_prefix_bytes: null };
    const results = await Promise.allSettled(
      records.map((put, i) => (i % 2 ? store : second).put(put, { quota: count })),
    );
    t.equal(results.filter(({ status }) => status === "fulfilled").length, 3);
    for (const result of results) if (result.status === "rejected") t.match(result.reason, exceeded);
    const held = await store.list("ann", { limit: 20 });
    t.equal(held.length, 3);
    t.same(
      await store.put(await record(held[0]!, 77), { quota: { max_prefixes: 1, max_prefix_bytes: 0 } }),
      { created: false },
      "a replacement that is not larger",
    );
    const size = held[0]!.bytes;
    const larger = await record(held[0]!, 78, { length: 6 });
    await t.rejects(store.put(larger, { quota: { max_prefixes: null, max_prefix_bytes: 4 * size - 1 } }), exceeded);
    t.same(await store.put(larger, { quota: { max_prefixes: null, max_prefix_bytes: 4 * size } }), { created: false });
    await t.rejects(
      store.put(await record({ user: "ann", name: "new" }, 1), {
        quota: {
          max_prefixes: null,
          max_prefix_bytes: 5 * size - 1,
        },
      }),
      exceeded,
    );
    t.same(
      await store.put(await record({ user: "ann", name: "new" }, 1), {
        quota: {
          max_prefixes: 4,
          max_prefix_bytes: 5 * size,
        },
      }),
      { created: true },
    );
    t.same(
      await store.put(await record({ user: "bob", name: "p" }, 1), {
        quota: {
          max_prefixes: 1,
          max_prefix_bytes: size,
        },
      }),
      { created: true },
      "others do not count",
    );
    await t.rejects(
      store.put(await record({ user: "eve", name: "p" }, 1), { quota: { max_prefixes: 0, max_prefix_bytes: null } }),
      exceeded,
    );
  });

  withStore(
    "what a user holds is counted as it changes, and never drifts from what is there",
    async (t, store, open) => {
      const second = await open();
      const random = seededRandom(7);
      const pick = (below: number): number => Math.floor(random() * below);
      const check = async (user: string): Promise<void> => {
        const metas = await store.list(user, { limit: 100 });
        const scanned = { prefixes: metas.length, bytes: metas.reduce((sum, { bytes }) => sum + bytes, 0) };
        t.same([await store.held(user), await second.held(user)], [scanned, scanned]);
      };
      const change = async (): Promise<unknown> => {
        const [where, key] = [
          pick(2) === 0 ? store : second,
          { user: ["ann", "Ünï/code"][pick(2)]!, name: `p${pick(6)}` },
        ];
        const kind = pick(9);
        if (kind < 6)
          return where.put(await record(key, pick(9), { length: 1 + pick(5) }), {
            quota: {
              max_prefixes: 4,
              max_prefix_bytes: 4000,
            },
          });
        if (kind < 8) return where.delete(key);
        return where.patchMeta(key, { visibility: "shared" });
      };
      for (let round = 0; round < 25; round++) {
        const results = await Promise.allSettled(Array.from({ length: 4 }, change));
        for (const result of results)
          if (result.status === "rejected") t.match(result.reason, { code: "quota_exceeded" });
        for (const user of ["ann", "Ünï/code"]) await check(user);
      }
      await second.close();
      await store.put(await record(key, 1));
      const before = await store.held("ann");
      t.same(await store.deleteUser("ann"), before);
      await store.readmitUser("ann");
      t.same(await store.held("ann"), { prefixes: 0, bytes: 0 });
      const put = await record(key, 1);
      await store.put(put);
      t.same(await store.held("ann"), { prefixes: 1, bytes: put.meta.bytes });
      await store.delete(key);
      t.same(await store.held("ann"), { prefixes: 0, bytes: 0 });
    },
  );

  withStore("the same content may be put again and by others", async (t, store) => {
    const [mine, theirs] = [await record(key, 1), await record({ user: "bob", name: "poem" }, 1)];
    for (const put of [mine, mine, theirs]) await store.put(put);
    t.equal(mine.meta.digest, theirs.meta.digest);
    t.equal(await store.delete(key), true);
    t.same(bytesOf(await store.loadKv(theirs.meta, theirs.meta.digest)), bytesOf(theirs.kv));
    await store.put(mine);
    t.same(bytesOf(await store.loadKv(key, mine.meta.digest)), bytesOf(mine.kv));
  });

  withStore("pages in order of name, of this user only", async (t, store) => {
    const names = ["B", "a", "a-1", "a.b", "a_b", "aa", "b10", "b9", "z".repeat(128), "0"];
    for (const [i, name] of names.entries()) await store.put(await record({ user: "ann", name }, i));
    for (const user of ["an", "ann0", "ann-", "anna", "a}{b/c d", "Ünïcode"])
      await store.put(await record({ user, name: "x" }, 99));
    const sorted = [...names].sort((a, b) => (a < b ? -1 : 1));
    const all = await store.list("ann", { limit: 100 });
    t.same(
      all.map(({ name }) => name),
      sorted,
    );
    t.same(
      listedFor("ann", (await store.head({ user: "ann", name: "a.b" }))!),
      all.find(({ name }) => name === "a.b"),
    );
    const paged: string[] = [];
    for (let after: string | undefined; ; after = paged.at(-1)) {
      const page = await store.list("ann", { limit: 3, ...(after === undefined ? {} : { after }) });
      paged.push(...page.map(({ name }) => name));
      if (page.length < 3) break;
    }
    t.same(paged, sorted);
    t.same(
      (await store.list("ann", { after: "a0", limit: 2 })).map(({ name }) => name),
      ["a_b", "aa"],
      "after a name that does not exist",
    );
    for (const user of ["a}{b/c d", "Ünïcode"])
      t.same(
        (await store.list(user, { limit: 5 })).map((meta) => [meta.user, meta.name]),
        [[user, "x"]],
      );
  });

  withStore("a user's prefixes go all at once and nobody else's", async (t, store) => {
    const mine = await Promise.all(Array.from({ length: 5 }, (_, i) => record({ user: "ann", name: `p${i}` }, i)));
    const other = await record({ user: "anna", name: "p0" }, 7);
    for (const put of [...mine, other]) await store.put(put);
    t.same(await store.deleteUser("ann"), { prefixes: 5, bytes: mine.reduce((sum, { meta }) => sum + meta.bytes, 0) });
    t.same(await store.list("ann", { limit: 10 }), []);
    for (const { meta } of mine) t.equal(await store.loadKv(meta, meta.digest), null);
    t.same(await store.head(other.meta), other.meta);
  });

  withStore("a removed user's PUTs are refused until a user of that id is created anew", async (t, store, open) => {
    const [mine, other] = [await record(key, 1), await record({ user: "anna", name: "poem" }, 2)];
    t.equal(await store.removalState("ann"), null);
    await store.deleteUser("ann");
    t.equal(await store.removalState("ann"), "open");
    await t.rejects(store.put(mine), { code: "removed", status: 410 });
    t.same(await store.put(other), { created: true });
    await store.deleteUser("ann", { last: true });
    t.equal(await store.removalState("ann"), "done");
    await t.rejects(store.put(mine), { code: "removed" });
    await store.readmitUser("ann");
    t.equal(await store.removalState("ann"), null);
    t.same(await store.put(mine), { created: true });
    const again = await open();
    t.same(await again.head(key), mine.meta);
    await again.close();
  });

  withStore("no PUT that a removal overtakes leaves anything", async (t, store) => {
    for (let round = 0; round < 10; round++) {
      const puts = await Promise.all(Array.from({ length: 12 }, (_, i) => record({ user: "ann", name: `p${i}` }, i)));
      const outcomes = puts.map((put) =>
        store.put(put).then(
          () => "stored",
          (error: unknown) => (error as { code: string }).code,
        ),
      );
      await new Promise((resolve) => setTimeout(resolve, round));
      await store.deleteUser("ann");
      const codes = await Promise.all(outcomes);
      t.ok(
        codes.every((code) => code === "stored" || code === "removed"),
        codes.join(),
      );
      t.same(await store.list("ann", { limit: 100 }), []);
      for (const { meta } of puts) t.equal(await store.head(meta), null);
      await store.readmitUser("ann");
    }
  });

  wholeRecordsContract(withStore);
  versionsContract(withStore);
  sharedListContract(withStore);
}
