import { seededRandom } from "../../src/load/random.ts";
import type { PrefixStore, VersionChange } from "../../src/prefixes/store.ts";
import { record } from "../prefixes/records.ts";
import type { WithStore } from "./shared-list.ts";
import { bytesOf } from "./whole-records.ts";

const LATER = "2027-01-01T00:00:00.000Z";

/** The part of PrefixStore's contract about earlier versions. */
export function versionsContract(withStore: WithStore): void {
  const key = { user: "ann", name: "poem" };
  const digestsOf = async (store: PrefixStore): Promise<string[]> =>
    (await store.versions(key)).map(({ digest }) => digest);
  const to = (digest: string, keep = 3): VersionChange => ({ digest, updatedAt: LATER, updatedBy: "k1", keep });
  const records = (): ReturnType<typeof record>[] =>
    [1, 2, 3, 4, 5].map((seed) =>
      record(key, seed, { length: seed, files: new Map([[`only-${seed}`, Buffer.alloc(seed, seed)]]) }),
    );

  withStore("earlier versions are kept in order, put back whole, and forgotten", async (t, store, open) => {
    const [a, b, c, d, e] = (await Promise.all(records())) as [R, R, R, R, R];
    t.same(await store.versions(key), []);
    for (const put of [a, b, c, d]) await store.put(put, { keep: 2 });
    const again = await open();
    t.teardown(() => again.close());
    t.same(await again.versions(key), [c.meta, b.meta]);
    t.same(await store.held("ann"), { prefixes: 1, bytes: b.meta.bytes + c.meta.bytes + d.meta.bytes });
    t.equal(await store.loadKv(key, c.meta.digest), null, "only the current one is used");

    await t.rejects(store.restore(key, to(a.meta.digest)), { code: "version_not_found" });
    await t.rejects(store.restore(key, to(b.meta.digest), { ifMatch: [c.meta.digest] }), {
      code: "precondition_failed",
    });
    t.same(await store.restore({ ...key, name: "none" }, to(b.meta.digest)), null);
    const sharing = { shared_with: ["bob"] };
    await store.patchMeta(key, sharing);
    const back = { ...b.meta, createdAt: d.meta.createdAt, updatedAt: LATER, updatedBy: "k1", ...sharing };
    t.same(await store.restore(key, to(b.meta.digest), { ifMatch: [d.meta.digest] }), back);
    t.same(await again.head(key), back);
    t.same(bytesOf(await again.loadKv(key, b.meta.digest)), bytesOf(b.kv));
    t.same(bytesOf(await again.loadFile(key, b.meta.digest, "only-2")), bytesOf(b.files.get("only-2")!));
    t.same(await store.versions(key), [d.meta, c.meta], "without sharing, in the order in which they were replaced");
    t.same(await store.restore(key, to(b.meta.digest)), back, "the current one again changes nothing");
    t.same(await store.listShared("bob", { limit: 9 }).then((list) => list.map(({ digest }) => digest)), [
      b.meta.digest,
    ]);
    t.same(await store.held("ann"), { prefixes: 1, bytes: b.meta.bytes + c.meta.bytes + d.meta.bytes });

    // Every one can come back, also the one that was current.
    for (const one of [d, c, b, c, d, b]) {
      await store.restore(key, to(one.meta.digest));
      t.same(bytesOf(await store.loadKv(key, one.meta.digest)), bytesOf(one.kv));
    }
    await store.put(c, { keep: 3 });
    t.same(await digestsOf(store), [b.meta.digest, d.meta.digest], "no digest twice");
    await store.put({ ...c, files: e.files, meta: { ...c.meta, files: e.meta.files } }, { keep: 3 });
    t.same(await digestsOf(store), [b.meta.digest, d.meta.digest], "nor the current one's");
    await store.restore(key, to(d.meta.digest, 1));
    t.same(await digestsOf(store), [c.meta.digest], "fewer to keep");
    await store.put(e, { keep: 0 });
    t.same(await store.versions(key), [], "none to keep");
    t.same(await store.held("ann"), { prefixes: 1, bytes: e.meta.bytes });

    await store.put(a, { keep: 3 });
    await store.delete(key);
    t.same([await store.versions(key), await store.held("ann")], [[], { prefixes: 0, bytes: 0 }]);
    for (const put of [a, b]) await store.put(put, { keep: 3 });
    t.same(await store.deleteUser("ann"), { prefixes: 1, bytes: a.meta.bytes + b.meta.bytes });
    await store.readmitUser("ann");
    t.same(await store.versions(key), []);
    await store.put(c, { keep: 3 });
    t.same(await store.versions(key), []);
  });

  withStore("versions give way to what the quota has no room for, and never refuse it", async (t, store) => {
    const [a, b, c] = (await Promise.all(records())) as [R, R, R];
    const limit = (bytes: number): { max_prefixes: number; max_prefix_bytes: number } => ({
      max_prefixes: 1,
      max_prefix_bytes: bytes,
    });
    await store.put(a, { quota: limit(a.meta.bytes), keep: 3 });
    await store.put(b, { quota: limit(a.meta.bytes + b.meta.bytes), keep: 3 });
    t.same(await digestsOf(store), [a.meta.digest], "there is just room");
    await store.put(c, { quota: limit(b.meta.bytes + c.meta.bytes), keep: 3 });
    t.same(await digestsOf(store), [b.meta.digest], "the oldest goes");
    await t.rejects(store.put(a, { precondition: { ifNoneMatch: "*" }, quota: limit(1), keep: 3 }), {
      code: "precondition_failed",
    });
    await store.put(b, { quota: limit(1), keep: 3 });
    t.same(await digestsOf(store), [], "one that is not larger goes in always");
    await t.rejects(store.put(c, { quota: limit(c.meta.bytes - 1), keep: 3 }), { code: "quota_exceeded" });
    t.same((await store.head(key))?.digest, b.meta.digest);
    await store.put(c, { quota: limit(c.meta.bytes), keep: 3 });
    t.same(await store.held("ann"), { prefixes: 1, bytes: c.meta.bytes });
    const other = await record({ user: "ann", name: "other" }, 9, { length: 1 });
    await store.put(a, { keep: 3 });
    await t.rejects(
      store.put(other, { quota: { max_prefixes: 2, max_prefix_bytes: a.meta.bytes + other.meta.bytes }, keep: 3 }),
      { code: "quota_exceeded" },
      "another prefix's versions count",
    );
  });

  withStore("under concurrent changes totals and versions stay those of what is there", async (t, store, open) => {
    const second = await open();
    t.teardown(() => second.close());
    const puts = await Promise.all(records());
    const random = seededRandom(11);
    const pick = <T>(of: readonly T[]): T => of[Math.floor(random() * of.length)]!;
    for (let round = 0; round < 12; round++) {
      const results = await Promise.allSettled(
        Array.from({ length: 4 }, () => {
          const [where, one] = [pick([store, second]), pick(puts)];
          const kind = pick([0, 0, 1, 1, 2]);
          if (kind === 0) return where.put(one, { keep: pick([0, 2, 3]) });
          return kind === 1
            ? where.restore(key, to(one.meta.digest, 3))
            : where.patchMeta(key, { visibility: "shared" });
        }),
      );
      for (const result of results)
        if (result.status === "rejected") t.match(result.reason, { code: "version_not_found" });
      const [now, earlier] = [await store.head(key), await second.versions(key)];
      const digests = [...(now === null ? [] : [now.digest]), ...earlier.map(({ digest }) => digest)];
      t.equal(new Set(digests).size, digests.length);
      const bytes = digests.reduce(
        (sum, digest) => sum + puts.find(({ meta }) => meta.digest === digest)!.meta.bytes,
        0,
      );
      t.same(await store.held("ann"), { prefixes: now === null ? 0 : 1, bytes });
    }
    for (const { digest } of await store.versions(key)) {
      await store.restore(key, to(digest));
      const meant = puts.find(({ meta }) => meta.digest === digest)!;
      t.same(bytesOf(await store.loadKv(key, digest)), bytesOf(meant.kv));
      for (const [name, content] of meant.files)
        t.same(bytesOf(await store.loadFile(key, digest, name)), bytesOf(content));
    }
  });
}

type R = Awaited<ReturnType<typeof record>>;
