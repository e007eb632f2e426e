import type { Test } from "tap";
import { seededRandom } from "../../src/load/random.ts";
import { listedFor, mayUse } from "../../src/prefixes/sharing.ts";
import type { ListedPrefix, PrefixKey, PrefixStore } from "../../src/prefixes/store.ts";
import { record } from "../prefixes/records.ts";

/** Registers a test with a store on its own empty data; `open` opens another store on the same data. */
export type WithStore = (
  name: string,
  body: (t: Test, store: PrefixStore, open: () => Promise<PrefixStore>) => Promise<void>,
) => void;

/** The part of PrefixStore's contract about lists of prefixes shared by others. */
export function sharedListContract(withStore: WithStore): void {
  const key = { user: "ann", name: "poem" };
  const idsOf = (metas: readonly PrefixKey[]): string[] => metas.map(({ user, name }) => `${user}/${name}`);
  const sharedWith = async (store: PrefixStore, user: string, limit = 100): Promise<string[]> =>
    idsOf(await store.listShared(user, { limit }));

  withStore(
    "prefixes shared with a user are listed for that user as long as they are shared",
    async (t, store, open) => {
      const second = await open();
      t.teardown(() => second.close());
      for (const [user, name] of [
        ["ann", "a"],
        ["ann", "b"],
        ["ann-b", "a"],
        ["cat", "a"],
        ["bob", "own"],
      ] as const)
        await store.put(await record({ user, name }, 1));
      t.same(await sharedWith(store, "bob"), [], "nothing is shared yet");
      await store.patchMeta({ user: "cat", name: "a" }, { visibility: "shared" });
      const shared = await store.patchMeta({ user: "ann", name: "b" }, { shared_with: ["bob", "eve", "Ünï/code"] });
      await second.patchMeta({ user: "ann-b", name: "a" }, { shared_with: ["bob"], readable_by: ["bob", "eve"] });
      await second.patchMeta({ user: "bob", name: "own" }, { visibility: "shared", shared_with: ["bob"] });
      t.same(
        await sharedWith(store, "bob"),
        ["ann-b/a", "ann/b", "cat/a"],
        "in order, each once, and not what is bob's own",
      );
      t.same((await store.listShared("bob", { limit: 9 }))[1], listedFor("bob", shared!), "not with whom else");
      t.same(await sharedWith(second, "eve"), ["ann-b/a", "ann/b", "bob/own", "cat/a"]);
      t.same(await sharedWith(second, "Ünï/code"), ["ann/b", "bob/own", "cat/a"]);
      t.same(await sharedWith(store, "nobody"), ["bob/own", "cat/a"], "what is shared with all");
      t.same(await sharedWith(store, "cat"), ["bob/own"]);

      await store.put(await record({ user: "ann", name: "b" }, 2));
      t.ok((await sharedWith(store, "bob")).includes("ann/b"), "a replacement stays shared");
      await store.patchMeta({ user: "ann-b", name: "a" }, { shared_with: [] });
      t.ok((await sharedWith(store, "bob")).includes("ann-b/a"), "may still be read");
      await store.patchMeta({ user: "ann-b", name: "a" }, { readable_by: ["eve"] });
      await second.patchMeta({ user: "cat", name: "a" }, { visibility: "private" });
      t.same(await sharedWith(store, "bob"), ["ann/b"]);
      await second.delete({ user: "ann", name: "b" });
      t.same(await sharedWith(store, "bob"), []);
      await store.put(await record({ user: "ann", name: "b" }, 3));
      t.same(await sharedWith(second, "eve"), ["ann-b/a", "bob/own"], "a new prefix of the name is private");
    },
  );

  withStore("shared prefixes come in pages, over all owners", async (t, store) => {
    const ids: string[] = [];
    for (let i = 0; i < 45; i++) {
      const shared = { user: `o${i % 15}`, name: `p${i}` };
      await store.put(await record(shared, 1, { length: 1 }));
      await store.patchMeta(
        shared,
        i % 3 === 0
          ? { visibility: "shared" }
          : i % 3 === 1
            ? { shared_with: ["bob"] }
            : { visibility: "shared", readable_by: ["bob"] },
      );
      if (shared.user !== "o7") ids.push(`${shared.user}/${shared.name}`);
    }
    ids.sort();
    for (const limit of [1, 7, 200]) {
      const paged: ListedPrefix[] = [];
      for (;;) {
        const last = paged.at(-1);
        const page = await store.listShared("bob", { limit, ...(last === undefined ? {} : { after: last }) });
        paged.push(...page);
        if (page.length < limit) break;
      }
      t.same(
        idsOf(paged).filter((id) => !id.startsWith("o7/")),
        ids,
        `pages of ${limit}`,
      );
    }
    t.same(
      idsOf(await store.listShared("o7", { limit: 3, after: { user: "o7", name: "p" } })),
      idsOf(await store.listShared("o7", { limit: 3, after: { user: "o7", name: "~" } })),
      "one's own are passed over",
    );
    t.same(
      idsOf(await store.listShared("bob", { limit: 2, after: { user: "o1", name: "zzz" } })),
      ids.filter((id) => id > "o1/zzz").slice(0, 2),
      "after one that does not exist",
    );
  });

  withStore("the list of shared prefixes is right after concurrent changes", async (t, store, open) => {
    const second = await open();
    t.teardown(() => second.close());
    const random = seededRandom(11);
    const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
    const [owners, names, guests] = [
      ["ann", "cat"],
      ["p", "q"],
      ["bob", "eve", "cat"],
    ];
    for (let round = 0; round < 8; round++) {
      await Promise.all(
        Array.from({ length: 12 }, async () => {
          const [where, key] = [pick([store, second]), { user: pick(owners), name: pick(names) }];
          const kind = random();
          if (kind < 0.3) return where.put(await record(key, 1));
          if (kind < 0.4) return where.delete(key);
          const some = (): string[] => guests.filter(() => random() < 0.4);
          return where.patchMeta(
            key,
            pick([
              { visibility: "shared" },
              { visibility: "private" },
              { shared_with: some() },
              { readable_by: some() },
              { shared_with: some(), readable_by: [] },
            ] as const),
          );
        }),
      );
      const all = (await Promise.all(owners.flatMap((user) => names.map((name) => store.head({ user, name }))))).filter(
        (meta) => meta !== null,
      );
      for (const guest of [...guests, "nobody"]) {
        const expected = all
          .filter((meta) => meta.user !== guest && mayUse(meta, guest))
          .map((meta) => listedFor(guest, meta));
        for (const each of [store, second])
          t.same(
            await each.listShared(guest, { limit: 100 }),
            expected.sort((a, b) => (idsOf([a])[0]! < idsOf([b])[0]! ? -1 : 1)),
            `${guest} in round ${round}`,
          );
      }
    }
  });

  withStore(
    "a removed user's prefixes are in nobody's list, and the user is struck off those of others",
    async (t, store, open) => {
      for (const [user, name] of [
        ["ann", "a"],
        ["ann", "b"],
        ["cat", "a"],
      ] as const)
        await store.put(await record({ user, name }, 1));
      const patch = { shared_with: ["bob", "eve"], readable_by: ["bob"] };
      for (const name of ["a", "b"]) await store.patchMeta({ user: "ann", name }, patch);
      await store.patchMeta({ user: "cat", name: "a" }, { visibility: "shared", ...patch });
      await store.deleteUser("bob");
      t.match(await store.head({ user: "ann", name: "a" }), { shared_with: ["eve"], readable_by: [] });
      t.match(await store.head({ user: "cat", name: "a" }), {
        visibility: "shared",
        shared_with: ["eve"],
        readable_by: [],
      });
      t.match(
        await store.patchMeta({ user: "ann", name: "b" }, { shared_with: ["bob", "cat"], readable_by: ["bob"] }),
        { shared_with: ["cat"], readable_by: [] },
        "while the removal is under way",
      );
      await store.deleteUser("bob", { last: true });
      await store.readmitUser("bob");
      t.same(await sharedWith(store, "bob"), ["cat/a"], "a new user of the id has not been let in");
      t.match(await store.patchMeta({ user: "ann", name: "b" }, { shared_with: ["bob"] }), { shared_with: ["bob"] });
      const again = await open();
      t.teardown(() => again.close());
      t.same(await sharedWith(again, "bob"), ["ann/b", "cat/a"]);
      await store.deleteUser("ann");
      t.same(await sharedWith(again, "bob"), ["cat/a"]);
      await store.deleteUser("cat", { last: true });
      t.same(await sharedWith(store, "eve"), []);
      await store.readmitUser("ann");
      await store.put(await record({ user: "ann", name: "a" }, 1));
      t.same(await sharedWith(store, "eve"), []);
    },
  );

  withStore("a thousand guests added at once", async (t, store) => {
    await store.put(await record(key, 1));
    const users = Array.from({ length: 1000 }, (_, i) => `u${i}`);
    t.same((await store.patchMeta(key, { shared_with: users, readable_by: users }))?.shared_with, users);
    for (const [user, access] of [
      ["u0", "read"],
      ["u999", "read"],
      ["ann", "owner"],
    ] as const) {
      const [listed] =
        user === "ann" ? await store.list(user, { limit: 9 }) : await store.listShared(user, { limit: 9 });
      t.match(listed, { user: "ann", name: "poem", access });
      t.notMatch(JSON.stringify(listed), /"u\d+"/, "a list does not say with whom else");
    }
    await store.patchMeta(key, { shared_with: [], readable_by: ["u7"] });
    for (const [user, list] of [
      ["u0", []],
      ["u7", ["ann/poem"]],
    ] as const)
      t.same(await sharedWith(store, user), list);
  });
}
