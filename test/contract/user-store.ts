import type { Test } from "tap";
import { createApiKey, MAX_USER_KEYS } from "../../src/users/api-key.ts";
import { deletionHash } from "../../src/users/deletions.ts";
import type { UserStore } from "../../src/users/store.ts";
import { usageRowName } from "../../src/users/usage-counts.ts";
import { NO_LIMITS, type ApiKeyRecord, type UsageRow, type User } from "../../src/users/types.ts";

/** Opens a store; every call uses the same data. */
export type OpenUserStore = () => Promise<UserStore>;

const NOW = "2026-01-31T12:00:00.000Z";
export const user = (id: string): User => ({ id, weight: 1, limits: NO_LIMITS, createdAt: NOW, updatedAt: NOW });
export const apiKey = (owner: string, createdAt = NOW): ApiKeyRecord => {
  const { id, hash } = createApiKey();
  return { id, user: owner, hash, createdAt, expiresAt: null };
};
export const usageRow = (owner: string, prefix: string | null, day: string, n = 1): UsageRow => ({
  user: owner,
  prefix,
  day,
  requests: n,
  prefixTokens: 2 * n,
  promptTokens: 3 * n,
  completionTokens: 4 * n,
  queueSeconds: n / 2,
  runSeconds: n / 1_000_000,
});

/** The contract of every UserStore. `make` prepares empty data; it may register teardowns on `t`. */
export function userStoreContract(t: Test, make: (t: Test) => Promise<OpenUserStore>): void {
  const withStore = (name: string, body: (t: Test, store: UserStore, open: OpenUserStore) => Promise<void>): void => {
    void t.test(name, async (t) => {
      const open = await make(t);
      const store = await open();
      t.teardown(() => store.close());
      await body(t, store, open);
    });
  };
  const missing = { code: "user_not_found" };

  withStore("what does not exist", async (t, store) => {
    t.equal(await store.getUser("ann"), null);
    t.same(await store.listUsers({ limit: 10 }), []);
    t.same(await store.missingUsers(["bob", "ann"]), ["bob", "ann"]);
    t.equal(await store.findKey("0123456789abcdef"), null);
    t.same(await store.listKeys("ann"), []);
    t.equal(await store.deleteKey("ann", "0123456789abcdef"), false);
    t.same(await store.usage("ann", { limit: 9 }), []);
    await t.rejects(store.patchUser("ann", { weight: 2 }, NOW), missing);
    await t.rejects(store.putKey(apiKey("ann")), missing);
    await t.rejects(store.deleteUser("ann", { keepUsage: false }), missing);
    await store.ping();
  });

  withStore("users are created once, patched, and outlive the connection", async (t, store, open) => {
    const limits = { ...NO_LIMITS, max_prefixes: 3, tokens_per_minute: 0 };
    await store.createUser({ ...user("ann"), weight: 2.5, limits });
    await t.rejects(store.createUser(user("ann")), { code: "user_exists" });
    t.same(await store.getUser("ann"), { ...user("ann"), weight: 2.5, limits });
    const later = "2026-02-01T00:00:00.000Z";
    const patched = {
      ...user("ann"),
      weight: 2.5,
      limits: { ...limits, max_prefixes: null, max_queued: 7 },
      updatedAt: later,
    };
    t.same(await store.patchUser("ann", { limits: { max_prefixes: null, max_queued: 7 } }, later), {
      before: { ...user("ann"), weight: 2.5, limits },
      user: patched,
    });
    t.same(await store.patchUser("ann", { weight: 4 }, later), { before: patched, user: { ...patched, weight: 4 } });
    const again = await open();
    t.teardown(() => again.close());
    t.same(await again.getUser("ann"), { ...patched, weight: 4 });
  });

  withStore("deletions are remembered: the later of two, in pages, without an id", async (t, store, open) => {
    const hashes = (["ann", "bob", "eve"] as const).map((id) => deletionHash("user", id));
    t.same(await store.deletedAt(hashes), [null, null, null]);
    t.same(await store.listDeletions(null), { found: [], next: null });
    const before = new Date().toISOString();
    for (const id of ["ann", "bob"]) await store.createUser(user(id));
    const key = apiKey("bob");
    await store.putKey(key);
    await store.deleteKey("bob", "0123456789abcdef");
    await store.deleteKey("bob", key.id);
    await store.deleteUser("ann", { keepUsage: false });
    await store.deleteUser("bob", { keepUsage: true });
    const keyHash = deletionHash("key", key.id);
    const again = await open();
    t.teardown(() => again.close());
    const times = await again.deletedAt([...hashes, keyHash, deletionHash("key", "0123456789abcdef")]);
    t.ok([times[0], times[1], times[3]].every((at) => at! >= before && at! <= new Date().toISOString()));
    t.same([times[2], times[4]], [null, null]);
    const later = "2100-01-01T00:00:00.000Z";
    await store.noteDeletions([
      { hash: hashes[0]!, at: later },
      { hash: hashes[1]!, at: "2026-01-01T00:00:00.000Z" },
      ...Array.from({ length: 2000 }, (_, i) => ({ hash: deletionHash("user", `u${i}`), at: later })),
    ]);
    t.same(await again.deletedAt(hashes), [later, times[1], null]);
    const found = new Map<string, string>();
    for (let next: string | null = null, first = true; first || next !== null; first = false) {
      const page = await again.listDeletions(next);
      for (const { hash, at } of page.found) found.set(hash, at);
      next = page.next;
    }
    t.equal(found.size, 2003);
    t.same([found.get(hashes[0]!), found.get(hashes[1]!), found.get(keyHash)], [later, times[1], times[3]]);
  });

  withStore("a user is suspended and resumed; nothing else changes", async (t, store, open) => {
    await store.createUser(user("ann"));
    const key = apiKey("ann");
    await store.putKey(key);
    const suspended = { ...user("ann"), suspended: true };
    t.same(await store.patchUser("ann", { suspended: true }, NOW), { before: user("ann"), user: suspended });
    const again = await open();
    t.teardown(() => again.close());
    t.same(await again.getUser("ann"), suspended);
    t.same(await again.listUsers({ limit: 9 }), [suspended]);
    t.same((await store.patchUser("ann", { weight: 2 }, NOW)).user, { ...suspended, weight: 2 }, "it stays so");
    t.same((await store.patchUser("ann", { suspended: false, weight: 1 }, NOW)).user, user("ann"));
    t.same(await again.getUser("ann"), user("ann"));
    t.same(await store.findKey(key.id), key);
    await t.rejects(store.patchUser("bob", { suspended: true }, NOW), missing);
  });

  withStore("of a thousand ids, those that belong to no user", async (t, store) => {
    for (const id of ["ann", "bob"]) await store.createUser(user(id));
    const ids = Array.from({ length: 1000 }, (_, i) => `u${i}`);
    t.same(await store.missingUsers(["bob", ...ids, "ann"]), ids);
    await store.deleteUser("bob", { keepUsage: true });
    t.same(await store.missingUsers(["ann", "bob"]), ["bob"]);
    t.same(await store.missingUsers([]), []);
  });

  withStore(
    "one of many concurrent creations wins, one of many patches of each field is not lost",
    async (t, store, open) => {
      const second = await open();
      t.teardown(() => second.close());
      const created = await Promise.allSettled(
        Array.from({ length: 20 }, (_, i) => (i % 2 ? store : second).createUser(user("ann"))),
      );
      t.equal(created.filter(({ status }) => status === "fulfilled").length, 1);
      await Promise.all([
        store.patchUser("ann", { weight: 3 }, NOW),
        second.patchUser("ann", { limits: { max_queued: 1 } }, NOW),
        store.patchUser("ann", { limits: { max_running: 2 } }, NOW),
      ]);
      t.match(await store.getUser("ann"), { weight: 3, limits: { max_queued: 1, max_running: 2, max_prefixes: null } });
    },
  );

  withStore("users come in pages, in order", async (t, store) => {
    const ids = ["B", "a", "a-1", "a.b", "a_b", "aa", "b10", "b9", "z".repeat(64), "0"];
    for (const id of ids) await store.createUser(user(id));
    const sorted = [...ids].sort((a, b) => (a < b ? -1 : 1));
    t.same(
      (await store.listUsers({ limit: 100 })).map(({ id }) => id),
      sorted,
    );
    const paged: string[] = [];
    for (let after: string | undefined; ; after = paged.at(-1)) {
      const page = await store.listUsers({ limit: 3, ...(after === undefined ? {} : { after }) });
      paged.push(...page.map(({ id }) => id));
      if (page.length < 3) break;
    }
    t.same(paged, sorted);
    t.same(
      (await store.listUsers({ after: "a0", limit: 2 })).map(({ id }) => id),
      ["a_b", "aa"],
      "after an id that does not exist",
    );
    // The longest ones have as many bytes as the HTTP API accepts.
    for (const after of [
      "\0",
      "\u0001",
      "\n",
      " ",
      "a\0",
      "a\u0001b",
      "a/",
      "~",
      "é",
      "\ufffd",
      "\u{1f600}".repeat(32),
      "z".repeat(64),
    ])
      t.same(
        (await store.listUsers({ after, limit: 100 })).map(({ id }) => id),
        sorted.filter((id) => id > after),
        JSON.stringify(after),
      );
  });

  withStore("keys are found by id, listed by user, and go", async (t, store) => {
    for (const id of ["ann", "anna"]) await store.createUser(user(id));
    const [one, two, other] = [
      apiKey("ann", "2026-01-01T00:00:00.000Z"),
      { ...apiKey("ann"), expiresAt: NOW },
      apiKey("anna"),
    ];
    for (const key of [two, other, one]) await store.putKey(key);
    t.same(await store.findKey(two.id), two);
    t.same(await store.listKeys("ann"), [one, two]);
    t.equal(await store.deleteKey("anna", one.id), false, "only its own user's");
    t.equal(await store.deleteKey("ann", one.id), true);
    t.equal(await store.deleteKey("ann", one.id), false);
    t.equal(await store.findKey(one.id), null);
    t.same(await store.listKeys("ann"), [two]);
  });

  withStore(
    "a user has so many keys at most, also of those created at once; expired ones make room",
    async (t, store, open) => {
      const second = await open();
      t.teardown(() => second.close());
      for (const id of ["ann", "bob"]) await store.createUser(user(id));
      const expired = { ...apiKey("ann", "2026-01-01T00:00:00.000Z"), expiresAt: "2026-01-02T00:00:00.000Z" };
      const lasting = { ...apiKey("ann"), expiresAt: "+010000-01-01T11:59:59.000Z" };
      const keys = [expired, lasting, ...Array.from({ length: MAX_USER_KEYS - 7 }, () => apiKey("ann"))];
      await Promise.all(keys.map((key) => store.putKey(key)));
      t.same(await store.findKey(expired.id), expired, "there is room without it");
      const more = Array.from({ length: 20 }, () => apiKey("ann"));
      const put = await Promise.allSettled(more.map((key, i) => (i % 2 ? store : second).putKey(key)));
      t.equal(put.filter(({ status }) => status === "fulfilled").length, 6);
      for (const [i, result] of put.entries()) {
        if (result.status === "rejected") t.match(result.reason, { code: "too_many_keys" });
        t.same(await second.findKey(more[i]!.id), result.status === "fulfilled" ? more[i] : null);
      }
      t.equal(await second.findKey(expired.id), null);
      t.same(await second.findKey(lasting.id), lasting);
      t.equal((await second.listKeys("ann")).length, MAX_USER_KEYS);
      await store.putKey(apiKey("bob"));
      t.equal(await store.deleteKey("ann", keys[2]!.id), true);
      await store.putKey(apiKey("ann"));
    },
  );

  withStore("a removed user leaves no key, and none can be added", async (t, store, open) => {
    const second = await open();
    t.teardown(() => second.close());
    for (const id of ["ann", "anna"]) await store.createUser(user(id));
    const [mine, theirs] = [[apiKey("ann"), apiKey("ann")], apiKey("anna")];
    for (const key of [...mine, theirs]) await second.putKey(key);
    await store.addUsage([
      usageRow("ann", "p", "2026-01-01"),
      usageRow("ann", null, "2026-01-02"),
      usageRow("anna", "p", "2026-01-01"),
    ]);
    t.same(await store.deleteUser("ann", { keepUsage: false }), { keys: 2, usageRows: 2 });
    for (const who of [store, second]) {
      t.equal(await who.getUser("ann"), null);
      for (const key of mine) t.equal(await who.findKey(key.id), null);
      t.same(await who.listKeys("ann"), []);
      t.same(await who.usage("ann", { limit: 9 }), []);
      t.same(
        (await who.listUsers({ limit: 9 })).map(({ id }) => id),
        ["anna"],
      );
      t.same(await who.findKey(theirs.id), theirs);
      t.equal((await who.usage("anna", { limit: 9 })).length, 1);
      await t.rejects(who.putKey(apiKey("ann")), missing);
    }
    await store.addUsage([usageRow("ann", "p", "2026-01-03")]);
    t.same(await store.usage("ann", { limit: 9 }), [], "what is still on its way does not bring it back");
    await second.createUser(user("ann"));
    t.same(await store.listKeys("ann"), [], "a new user of the name starts with nothing");
  });

  withStore("keys racing with the removal of their user", async (t, store, open) => {
    const second = await open();
    t.teardown(() => second.close());
    for (let round = 0; round < 5; round++) {
      await store.createUser(user("ann"));
      const keys = Array.from({ length: 10 }, () => apiKey("ann"));
      await Promise.allSettled([
        ...keys.map((key, i) => (i % 2 ? store : second).putKey(key)),
        second.deleteUser("ann", { keepUsage: false }),
      ]);
      for (const key of keys) t.equal(await store.findKey(key.id), null);
      t.same(await store.listKeys("ann"), []);
    }
  });

  withStore("usage can be kept", async (t, store) => {
    await store.createUser(user("ann"));
    await store.addUsage([usageRow("ann", "p", "2026-01-01", 3)]);
    t.same(await store.deleteUser("ann", { keepUsage: true }), { keys: 0, usageRows: 0 });
    t.same(await store.usage("ann", { limit: 9 }), [usageRow("ann", "p", "2026-01-01", 3)]);
    t.equal((await store.usageSums("ann", {})).requests, 3);
  });

  withStore("who has usage, in pages, in order", async (t, store) => {
    // In order of id, which differs from the order of `id/`.
    const ids = ["a-1", "ann", "ann-2", "ann-2.b", "ann.c", "anna", "b", "kept-1", "z"];
    for (const id of ids) await store.createUser(user(id));
    await store.addUsage([
      ...ids.flatMap((id) => [usageRow(id, null, "2026-01-01"), usageRow(id, "p", "2026-01-02")]),
      usageRow("admin", null, "2026-01-01"),
      usageRow("local", null, "2026-01-01"),
    ]);
    await store.deleteUser("kept-1", { keepUsage: true });
    await store.deleteUser("anna", { keepUsage: false });
    const expected = ["a-1", "admin", "ann", "ann-2", "ann-2.b", "ann.c", "b", "kept-1", "local", "z"];
    for (const limit of [1, 3, 100]) {
      const paged: string[] = [];
      for (let after: string | undefined; ; after = paged.at(-1)) {
        const page = await store.usageUsers({ limit, ...(after === undefined ? {} : { after }) });
        paged.push(...page);
        if (page.length < limit) break;
      }
      t.same(paged, expected, `pages of ${limit}`);
    }
    t.same(await store.usageUsers({ after: "ann-1", limit: 2 }), ["ann-2", "ann-2.b"], "after an id that has none");
    await store.createUser(user("kept-1"));
    await store.deleteUser("kept-1", { keepUsage: false });
    t.notOk((await store.usageUsers({ limit: 100 })).includes("kept-1"), "removed in the end");
  });

  withStore("200 concurrent additions are exact", async (t, store, open) => {
    const second = await open();
    t.teardown(() => second.close());
    await store.createUser(user("ann"));
    const rows = [
      usageRow("ann", "p", "2026-01-01"),
      usageRow("ann", null, "2026-01-01"),
      usageRow("local", "p", "2026-01-01"),
      usageRow("nobody", "p", "2026-01-01"),
    ];
    await Promise.all(Array.from({ length: 200 }, (_, i) => (i % 2 ? store : second).addUsage(rows)));
    const total = (owner: string, prefix: string | null): UsageRow => usageRow(owner, prefix, "2026-01-01", 200);
    t.same(await store.usage("ann", { limit: 9 }), [total("ann", null), total("ann", "p")]);
    t.same(await second.usage("local", { limit: 9 }), [total("local", "p")]);
    t.same(await second.usage("nobody", { limit: 9 }), []);
    t.match(await store.usageSums("ann", {}), {
      requests: 400,
      prefixTokens: 800,
      queueSeconds: 200,
      runSeconds: 4e-4,
    });
    t.match(await second.usageSums("nobody", {}), { requests: 0, runSeconds: 0 });
  });

  withStore("usage of a range of days, in order", async (t, store) => {
    await store.createUser(user("ann"));
    await store.createUser(user("ann-2"));
    const days = ["2026-02-01", "2025-12-31", "2026-01-01", "2026-01-31"];
    for (const day of days)
      await store.addUsage([usageRow("ann", "b", day), usageRow("ann", "a/x:y z", day), usageRow("ann-2", "a", day)]);
    const found = async (range: { from?: string; to?: string }): Promise<string[]> =>
      (await store.usage("ann", { ...range, limit: 9 })).map(({ day, prefix }) => `${day} ${prefix}`);
    t.same(
      await found({}),
      [...days].sort().flatMap((day) => [`${day} a/x:y z`, `${day} b`]),
    );
    t.same(await found({ from: "2026-01-01", to: "2026-01-31" }), [
      "2026-01-01 a/x:y z",
      "2026-01-01 b",
      "2026-01-31 a/x:y z",
      "2026-01-31 b",
    ]);
    t.same(await found({ from: "2026-02-01" }), ["2026-02-01 a/x:y z", "2026-02-01 b"]);
    t.same(await found({ to: "2025-12-31" }), ["2025-12-31 a/x:y z", "2025-12-31 b"]);
  });

  withStore(
    "usage comes in pages, on which each row that was there is once, whatever is added meanwhile",
    async (t, store, open) => {
      const second = await open();
      t.teardown(() => second.close());
      for (const id of ["ann", "anna"]) await store.createUser(user(id));
      const days = ["2026-01-01", "2026-01-02"];
      const prefixes = [null, "*", ...Array.from({ length: 2500 }, (_, i) => `p${i}`), "z".repeat(128)];
      const rows = days.flatMap((day) => prefixes.map((prefix) => usageRow("ann", prefix, day)));
      await store.addUsage([...rows, usageRow("anna", "p", days[0]!)]);
      const paged: string[] = [];
      for (let after: string | undefined; ; after = paged.at(-1)) {
        const [page] = await Promise.all([
          store.usage("ann", { limit: 100, ...(after === undefined ? {} : { after }) }),
          // Before, at and after the page's position.
          ...["a", "p1234", `q${paged.length}`].map((prefix, i) =>
            second.addUsage([usageRow("ann", prefix, days[i % 2]!)]),
          ),
        ]);
        paged.push(...page.map(usageRowName));
        if (page.length < 100) break;
      }
      t.equal(new Set(paged).size, paged.length, "none twice");
      t.same(paged, [...paged].sort(), "in order");
      const told = new Set(paged);
      t.same(
        rows.map(usageRowName).filter((name) => !told.has(name)),
        [],
        "none lost",
      );
      const all = await store.usage("ann", { limit: 10_000 });
      const { requests } = await store.usageSums("ann", {});
      t.equal(requests, rows.length + 3 * Math.ceil((paged.length + 1) / 100));
      t.equal(
        requests,
        all.reduce((sum, row) => sum + row.requests, 0),
        "the sums are those of all pages",
      );
      const onSecond = { from: days[1]!, to: days[1]! };
      t.same(
        await store.usage("ann", { ...onSecond, limit: 2 }),
        await store.usage("ann", { ...onSecond, after: `${days[0]}/=z`, limit: 2 }),
        "after a row of before the first day",
      );
      t.same(await store.usage("ann", { to: days[0]!, after: `${days[1]}/`, limit: 9 }), [], "after the last day");
      t.same(await store.usage("ann", { from: days[1]!, to: days[0]!, limit: 9 }), []);
      t.equal((await store.usageSums("ann", { from: days[1]!, to: days[0]! })).requests, 0);
      t.same(await store.deleteUser("ann", { keepUsage: false }), { keys: 0, usageRows: all.length });
      t.same(await store.usage("ann", { limit: 9 }), []);
      t.equal((await second.usageSums("ann", {})).requests, 0);
      t.equal((await second.usageSums("anna", {})).requests, 1);
    },
  );

  withStore("own changes are told before the call resolves", async (t, store) => {
    const heard: string[] = [];
    const end = store.onChange((id) => heard.push(id));
    const key = apiKey("ann");
    await store.createUser(user("ann"));
    await store.putKey(key);
    await store.patchUser("ann", { weight: 2 }, NOW);
    await store.deleteKey("ann", key.id);
    await store.deleteUser("ann", { keepUsage: false });
    t.same(heard, ["ann", "ann", "ann", "ann", "ann"]);
    end();
    await store.createUser(user("bob"));
    t.equal(heard.length, 5);
  });

  withStore("closed", async (t, _store, open) => {
    const other = await open();
    await other.close();
    await t.rejects(other.getUser("ann"), { code: "store_unavailable" });
  });
}
