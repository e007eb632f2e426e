import { join } from "node:path";
import t from "tap";
import { importArchive, type ImportOptions, type ImportResult } from "../../src/archive/import.ts";
import { record } from "../prefixes/records.ts";
import { apiKey, usageRow, user } from "../contract/user-store.ts";
import { startRedis } from "../support/redis.ts";
import { has, reasonFor } from "../support/requirements.ts";
import { archiveOf, contentsOf, fill, openStores, read, type Stores } from "./stores.ts";

const dir = t.testdir();
let folders = 0;
const folder = (): string => `lmdb:${join(dir, String(folders++))}`;
const source = await openStores(t, folder());
await fill(source);
const archive = await archiveOf(source);
const contents = await contentsOf(source);
/** Of everything in it. */
const ALL = { users: 2, keys: 3, prefixes: 5, grants: 2, usage_rows: 11 };
const NONE = { users: 0, keys: 0, prefixes: 0, grants: 0, usage_rows: 0 };

async function importInto(
  target: Stores,
  bytes = archive,
  options: ImportOptions = {},
): Promise<{ result: ImportResult; problems: string[] }> {
  const problems: string[] = [];
  const result = await importArchive(read(bytes), target, { ...options, onProblem: (text) => problems.push(text) });
  return { result, problems };
}

t.test("a new store then holds the same, and importing again changes nothing", async (t) => {
  t.same(contents.length, 1 + 2 + 5 + 3, "header, users, prefixes, usage by user");
  const target = await openStores(t, folder());
  t.match((await importInto(target)).result, { imported: ALL, present: NONE, deleted: 0, conflicts: 0, damaged: 0 });
  t.same(await contentsOf(target), contents);
  t.match((await importInto(target)).result, { imported: NONE, present: ALL, deleted: 0, conflicts: 0 });
  t.same(await contentsOf(target), contents);
  t.same((await target.prefixes.listShared("bob", { limit: 9 })).map(({ name }) => name).sort(), ["p", "r"]);
});

t.test(
  "from a folder to Redis and back",
  { skip: has("redis-server") ? false : reasonFor("redis-server") },
  async (t) => {
    const redis = await startRedis();
    t.teardown(() => redis.stop());
    const shared = await openStores(t, redis.url);
    t.match((await importInto(shared)).result, { imported: ALL, conflicts: 0 });
    t.match((await importInto(shared)).result, { imported: NONE, present: ALL, conflicts: 0 });
    t.same(await contentsOf(shared), contents);
    const back = await openStores(t, folder());
    t.match((await importInto(back, await archiveOf(shared))).result, { imported: ALL, conflicts: 0 });
    t.same(await contentsOf(back), contents);
    const key = (await source.users.listKeys("ann"))[0]!;
    t.same(await shared.users.findKey(key.id), key, "keys work: they are found by their id");

    // As a removal over HTTP does it; Redis refuses the user's uploads for a while.
    await shared.prefixes.deleteUser("bob");
    await shared.users.deleteUser("bob", { keepUsage: false });
    const early = await importInto(shared, archive, { bringBack: ["bob"] });
    t.equal(early.problems[0], "user bob: its removal is not finished; repeat it, then the import");
    await shared.prefixes.deleteUser("bob", { last: true });
    const { result, problems } = await importInto(shared);
    t.match(problems[0], /^user bob: removed here at 20.*; --bring-back bob would import it$/);
    t.equal(await shared.users.getUser("bob"), null);
    t.match(result.imported, NONE);
    await importInto(shared, archive, { bringBack: ["bob"], replace: true });
    t.same(await contentsOf(shared), contents);
  },
);

t.test("what is there with other content stays, and is told, unless it is to be replaced", async (t) => {
  const target = await openStores(t, folder());
  await importInto(target);
  const other = await record({ user: "ann", name: "p" }, 9);
  await target.prefixes.put(other);
  await target.prefixes.patchMeta({ user: "ann", name: "q" }, { shared_with: ["bob"] });
  await target.users.patchUser("bob", { weight: 7, suspended: false }, "2026-02-02T00:00:00.000Z");
  await target.users.patchUser("ann", { suspended: true }, "2026-02-02T00:00:00.000Z");
  const { result, problems } = await importInto(target);
  t.match(result, { imported: NONE, conflicts: 4 });
  t.match(problems, [
    "user ann: its weight, limits or suspension are others here",
    "user bob: its weight, limits or suspension are others here",
    `prefix ann/p: there is another, of digest ${other.meta.digest} and ${other.meta.updatedAt}`,
    "prefix ann/q: it is shared otherwise here",
  ]);
  t.equal((await target.prefixes.head(other.meta))?.digest, other.meta.digest);
  t.match((await importInto(target, archive, { replace: true })).result, {
    imported: { users: 2, keys: 0, prefixes: 1 },
    conflicts: 0,
  });
  t.same(await contentsOf(target), contents);
  t.match(await target.users.getUser("bob"), { suspended: true });
  t.notMatch(await target.users.getUser("ann"), { suspended: true });
});

t.test("who was removed since, and keys that were deleted, do not come back", async (t) => {
  const target = await openStores(t, folder());
  await importInto(target);
  const [key] = await target.users.listKeys("ann");
  await target.users.deleteKey("ann", key!.id);
  await target.prefixes.deleteUser("bob");
  await target.users.deleteUser("bob", { keepUsage: false });
  await target.prefixes.deleteUser("bob", { last: true });
  const { result, problems } = await importInto(target);
  t.match(result, { imported: NONE, conflicts: 0, deleted: 5 });
  t.match(problems, [
    new RegExp(`^key ann/${key!.id}: deleted here at 20`),
    /^user bob: removed here at 20.*; --bring-back bob would import it$/,
    "prefix ann/p: not shared with bob, who is not here",
    "prefix bob/p and what else user bob has: this user is not here",
  ]);
  t.equal(await target.users.getUser("bob"), null);
  t.equal(await target.prefixes.head({ user: "bob", name: "p" }), null);
  t.equal(await target.users.findKey(key!.id), null);

  // Another person under the same id, created later: nothing of the first one's, and nothing shared with the first one.
  await target.users.createUser({ ...user("bob"), createdAt: "2026-05-01T00:00:00.000Z" });
  await target.prefixes.readmitUser("bob");
  const again = await importInto(target);
  t.match(again.result, { imported: NONE, conflicts: 1 });
  t.match(again.problems[1], "user bob: another user of this id was created here at 2026-05-01T00:00:00.000Z");
  t.equal(await target.prefixes.head({ user: "bob", name: "p" }), null);
  t.match(await target.prefixes.head({ user: "ann", name: "p" }), { shared_with: ["admin"], readable_by: [] });
  t.same(await target.users.usage("bob", { limit: 9 }), []);

  // The knowledge of deletions moves too: to a third store, from an export that is older than they are.
  const third = await openStores(t, folder());
  await importInto(third, await archiveOf(target, { users: ["ann"] }));
  t.match((await importInto(third)).problems.at(0), /^key ann/);
  t.equal(await third.users.getUser("bob"), null);
  await importInto(third, archive, { bringBack: ["ann", "bob"], replace: true });
  t.same(await contentsOf(third), contents, "unless somebody asks for it");
});

t.test("one user's only", async (t) => {
  const target = await openStores(t, folder());
  const { result, problems } = await importInto(target, archive, { users: ["ann"] });
  t.match(result, { imported: { users: 1, keys: 2, prefixes: 3, grants: 1, usage_rows: 9 }, conflicts: 0 });
  t.same(problems, ["prefix ann/p: not shared with bob, who is not here"]);
  const only = await openStores(t, folder());
  t.match((await importInto(only, await archiveOf(source, { users: ["ann"] }))).result.imported, result.imported);
  t.same(await contentsOf(only), await contentsOf(target));
  await t.rejects(archiveOf(source, { users: ["eve"] }), { code: "user_not_found" });
});

t.test("usage is counted once, whatever was counted since and however often it is imported", async (t) => {
  const target = await openStores(t, folder());
  await importInto(target);
  await target.users.addUsage([usageRow("ann", "p", "2026-01-01", 5), usageRow("ann", "p", "2026-02-01", 5)]);
  t.match((await importInto(target)).result, { imported: { usage_rows: 0 }, present: { usage_rows: 11 } });
  await source.users.addUsage([usageRow("bob", null, "2026-01-31", 1)]);
  const later = await archiveOf(source);
  t.match((await importInto(target, later)).result.imported, { usage_rows: 1 });
  t.same(await target.users.usage("bob", { limit: 9 }), [usageRow("bob", null, "2026-01-31", 8)]);
  t.same((await target.users.usage("ann", { limit: 1 })).length, 1);
  t.match(await target.users.usageSums("ann", {}), { requests: 3 * (1 + 2 + 3) + 5 + 5 });
});

t.test("more users, keys and usage than a page has", async (t) => {
  const many = await openStores(t, folder());
  const ids = Array.from({ length: 120 }, (_, i) => `u${i}`);
  for (const id of ids) await many.users.createUser(user(id));
  await many.users.putKey(apiKey("u7"));
  const rows = Array.from({ length: 1200 }, (_, i) =>
    usageRow("u3", `p${i % 700}`, `2026-01-${10 + Math.floor(i / 700)}`),
  );
  await many.users.addUsage(rows);
  for (let i = 0; i < 101; i++) await many.prefixes.put(await record({ user: "u3", name: `p${i}` }, i, { length: 1 }));
  const target = await openStores(t, folder());
  const bytes = await archiveOf(many);
  t.match((await importInto(target, bytes)).result.imported, { users: 120, keys: 1, prefixes: 101, usage_rows: 1200 });
  t.match((await importInto(target, bytes)).result, { imported: NONE, present: { usage_rows: 1200 } });
  t.same(await contentsOf(target), await contentsOf(many));
});
