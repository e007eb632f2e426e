/** Files of the LMDB stores that were cut, flipped, deleted or replaced: an error for whom they are, also while they are open, and never the end of the process. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
  closeSync,
  readdirSync,
} from "node:fs";
import { join } from "node:path";
import { open } from "lmdb";
import t from "tap";
import { checkLmdbFile } from "../../src/lmdb/check.ts";
import { sharesFolder, userFile } from "../../src/lmdb/prefix-files.ts";
import { LmdbTables } from "../../src/lmdb/prefix-tables.ts";
import { openLmdbStore } from "../../src/lmdb/prefix-store.ts";
import type { PrefixStore } from "../../src/prefixes/store.ts";
import { openLmdbUserStore } from "../../src/lmdb/user-store.ts";
import { LmdbUserTables } from "../../src/lmdb/user-tables.ts";
import { user } from "../contract/user-store.ts";
import { record } from "../prefixes/records.ts";
import { effort } from "../support/effort.ts";
import { bareNode, SOURCES } from "../support/program.ts";
import { DAMAGED_USER, makePrefixes, makeUsers } from "./damage.ts";

const UNAVAILABLE = { code: "store_unavailable", status: 503, retryAfter: 5 };
const DAMAGED = { name: "DamagedFileError", message: /data\.mdb (is damaged|is missing|was deleted)/ };
const PAGE = 4096;
const mine = { user: DAMAGED_USER, name: "p1" };
const others = { user: "bob", name: "p" };

t.setTimeout(600_000);
const sound = mkdtempSync(join(t.testdir(), "sound."));
const [soundPrefixes, soundUsers] = [join(sound, "prefixes"), join(sound, "users")];
t.before(async () => {
  await makePrefixes(soundPrefixes);
  await makeUsers(soundUsers);
});

function copyOf(from: string): string {
  const dir = mkdtempSync(join(sound, "copy."));
  cpSync(from, dir, { recursive: true });
  return dir;
}

const usersFile = (dir: string): string =>
  join(dir, "users", readFileSync(join(dir, "users", "current"), "utf8"), "data.mdb");

function overwrite(path: string, at: number, bytes: Buffer): void {
  const file = openSync(path, "r+");
  writeSync(file, bytes, 0, bytes.length, at);
  closeSync(file);
}

/** Of the newer meta page. */
function setRoot(path: string, tree: 0 | 1, root: bigint): void {
  const bytes = readFileSync(path);
  const newer = bytes.readBigUInt64LE(24 + 128) > bytes.readBigUInt64LE(PAGE + 24 + 128) ? 0 : PAGE;
  const value = Buffer.alloc(8);
  value.writeBigUInt64LE(root);
  overwrite(path, newer + 24 + 24 + tree * 48 + 40, value);
}

const DAMAGES: Readonly<Record<string, (path: string) => void>> = {
  "cut to half": (path) => truncateSync(path, statSync(path).size >> 1),
  "cut to one page": (path) => truncateSync(path, PAGE),
  "cut to three pages": (path) => truncateSync(path, 3 * PAGE),
  "cut to nothing": (path) => truncateSync(path, 0),
  "another file": (path) => writeFileSync(path, Buffer.alloc(20_000, 0x5a)),
  "the root of the main tree outside of the file": (path) => setRoot(path, 1, 1n << 20n),
  "the root of the main tree a free or an overflow page": (path) =>
    setRoot(path, 1, BigInt(statSync(path).size / PAGE - 1)),
  "the root of the free pages outside of the file": (path) => setRoot(path, 0, 1n << 40n),
  "the older meta page of no transaction": (path) => overwrite(path, 24, Buffer.alloc(136)),
  "a page of zeros": (path) => {
    const bytes = readFileSync(path);
    const pages = [...Array(bytes.length / PAGE).keys()].filter(
      (page) => page > 1 && bytes.readUInt16LE(page * PAGE + 18) === 2 && bytes.readUInt32LE(page * PAGE) === page,
    );
    for (const page of pages) overwrite(path, page * PAGE, Buffer.alloc(PAGE));
  },
};

/** As the store's threads call them, in this one: whatever LMDB could not take would end the test. */
for (const [what, damage] of Object.entries(DAMAGES)) {
  t.test(`${what}: an error for whose file it is, until it is back`, async (t) => {
    const dir = copyOf(soundPrefixes);
    const file = userFile(dir, DAMAGED_USER);
    damage(file);
    const tables = new LmdbTables({ dir });
    t.teardown(() => tables.close());
    await t.rejects(tables.head(mine), DAMAGED);
    await t.rejects(tables.list(DAMAGED_USER, { limit: 9 }), DAMAGED);
    await t.rejects(tables.put(await record(mine, 1)), DAMAGED);
    await t.rejects(tables.delete(mine), DAMAGED);
    t.ok(await tables.head(others));
    t.match(await tables.put(await record(others, 2)), { created: false });
    copyFileSync(userFile(soundPrefixes, DAMAGED_USER), file);
    t.ok(await tables.head(mine), "restored, without a restart");
    t.match(await tables.put(await record(mine, 7)), { created: false });

    const users = copyOf(soundUsers);
    damage(usersFile(users));
    t.throws(() => new LmdbUserTables({ dir: users }), DAMAGED);
    copyFileSync(usersFile(soundUsers), usersFile(users));
    const restored = new LmdbUserTables({ dir: users });
    t.ok(restored.getUser("u1"));
    await restored.close();
  });
}

t.test("through the stores' threads it is store_unavailable", async (t) => {
  const [dir, users] = [copyOf(soundPrefixes), copyOf(soundUsers)];
  for (const path of [userFile(dir, DAMAGED_USER), usersFile(users)]) truncateSync(path, 3 * PAGE);
  const store = await openLmdbStore({ dir });
  t.teardown(() => store.close());
  await t.rejects(store.head(mine), UNAVAILABLE);
  t.ok(await store.head(others));
  const error = (await openLmdbUserStore({ dir: users }).catch((error: unknown) => error)) as Error;
  t.match(error, UNAVAILABLE);
  t.match(String(error.cause), /data\.mdb is damaged: it (ends|should)/);
});

for (const kind of ["prefixes", "users"] as const) {
  t.test(
    `one flipped bit anywhere in ${kind}, or its end cut off: served as it was, or refused`,
    { timeout: 600_000 },
    async (t) => {
      const rounds = effort({ short: 60, long: 400 });
      const child = spawn(
        ...bareNode(
          ...SOURCES,
          new URL("damage-child.ts", import.meta.url).pathname,
          kind,
          kind === "users" ? soundUsers : soundPrefixes,
          "7",
          String(rounds),
        ),
        { stdio: ["ignore", "pipe", "inherit"] },
      );
      let said = "";
      child.stdout.setEncoding("utf8").on("data", (text: string) => (said += text));
      t.same(await once(child, "close"), [0, null], "no signal");
      const { served, refused, wrong } = JSON.parse(said) as { served: number; refused: number; wrong: string[] };
      t.same(wrong, []);
      t.equal(served + refused, rounds);
      t.ok(served > 0 && refused > rounds / 10, `${served} served, ${refused} refused`);
    },
  );
}

t.test("a file that another process extends while it is checked is sound", async (t) => {
  const dir = mkdtempSync(join(sound, "growing."));
  const writer = open<Buffer, string>({ path: dir, noSubdir: false, encoding: "binary", maxDbs: 1 });
  t.teardown(() => writer.close());
  const table = writer.openDB<Buffer, string>({ name: "table", encoding: "binary" });
  await table.put("first", Buffer.alloc(10));
  let looks = 0;
  const grow = (): { entry(): void; end(): void } => {
    table.transactionSync(() => table.putSync(`look ${looks++}`, Buffer.alloc(100 * PAGE)));
    return { entry() {}, end() {} };
  };
  // Asked for after the file has been opened, before it is read.
  for (let look = 0; look < 3; look++) t.doesNotThrow(() => checkLmdbFile(join(dir, "data.mdb"), grow));
  t.equal(looks, 3);
});

t.test("a file truncated while it is open is noticed before it is read again", async (t) => {
  const dir = copyOf(soundPrefixes);
  const store = await openLmdbStore({ dir });
  t.teardown(() => store.close());
  const file = userFile(dir, DAMAGED_USER);
  const { digest } = (await store.head(mine))!;
  truncateSync(file, 3 * PAGE);
  await t.rejects(store.loadKv(mine, digest), UNAVAILABLE);
  await t.rejects(store.put(await record(mine, 1)), UNAVAILABLE);
  t.ok(await store.head(others));
  copyFileSync(userFile(soundPrefixes, DAMAGED_USER), file);
  t.ok(await store.loadKv(mine, digest));

  const usersDir = copyOf(soundUsers);
  const users = await openLmdbUserStore({ dir: usersDir });
  t.teardown(() => users.close());
  t.ok(await users.getUser("u1"));
  truncateSync(usersFile(usersDir), PAGE);
  await t.rejects(users.getUser("u1"), UNAVAILABLE);
  await t.rejects(users.createUser(user("new")), UNAVAILABLE);
  copyFileSync(usersFile(soundUsers), usersFile(usersDir));
  t.ok(await users.getUser("u1"));
  await users.createUser(user("new"));
});

t.test("a file deleted while it is open takes no write and gives no answer until it is back", async (t) => {
  const dir = copyOf(soundPrefixes);
  const store = await openLmdbStore({ dir });
  t.teardown(() => store.close());
  t.ok(await store.head(mine));
  for (const path of [
    userFile(dir, DAMAGED_USER),
    join(userFile(dir, DAMAGED_USER), ".."),
    join(dir, "prefixes"),
    dir,
  ]) {
    renameSync(path, `${sound}/away`);
    await t.rejects(store.put(await record(mine, 1)), UNAVAILABLE, path);
    await t.rejects(store.patchMeta(mine, { shared_with: ["bob"] }), UNAVAILABLE);
    await t.rejects(store.head(mine), UNAVAILABLE);
    await t.rejects(store.list(DAMAGED_USER, { limit: 1 }), UNAVAILABLE);
    await t.rejects(store.deleteUser(DAMAGED_USER), UNAVAILABLE, "what may come back is not removed");
    t.notOk(existsSync(path), "and nothing is made in its place");
    renameSync(`${sound}/away`, path);
    await store.readmitUser(DAMAGED_USER);
    t.match(await store.put(await record(mine, 1)), { created: false });
  }

  const usersDir = copyOf(soundUsers);
  const users = await openLmdbUserStore({ dir: usersDir });
  t.teardown(() => users.close());
  for (const path of [usersFile(usersDir), join(usersFile(usersDir), ".."), join(usersDir, "users"), usersDir]) {
    renameSync(path, `${sound}/away`);
    await t.rejects(users.createUser(user("new")), UNAVAILABLE, path);
    await t.rejects(users.deleteUser("u3", { keepUsage: false }), UNAVAILABLE);
    await t.rejects(users.getUser("u1"), UNAVAILABLE);
    t.notOk(existsSync(path));
    renameSync(`${sound}/away`, path);
    t.ok(await users.getUser("u1"));
  }
});

t.test("a file that is replaced while it is open is the one that counts", async (t) => {
  const dir = copyOf(soundPrefixes);
  const store = await openLmdbStore({ dir });
  t.teardown(() => store.close());
  await store.put(await record({ ...mine, name: "lost" }, 1));
  copyFileSync(userFile(soundPrefixes, DAMAGED_USER), `${dir}/restored`);
  renameSync(`${dir}/restored`, userFile(dir, DAMAGED_USER));
  t.equal(await store.head({ ...mine, name: "lost" }), null);
  t.match(await store.put(await record({ ...mine, name: "kept" }, 1)), { created: true });
  await store.close();
  const again = await openLmdbStore({ dir });
  t.ok(await again.head({ ...mine, name: "kept" }));
  await again.close();
});

t.test("removals beside a damaged file", async (t) => {
  const dir = copyOf(soundPrefixes);
  const file = userFile(dir, DAMAGED_USER);
  const guest = "a-guest-of-a-long-name-7";
  truncateSync(file, 5 * PAGE);
  const store = await openLmdbStore({ dir });
  t.teardown(() => store.close());
  t.same(
    await store.deleteUser("bob", { last: true }),
    { prefixes: 1, bytes: 384 },
    "a user who has nothing to do with it",
  );
  await t.rejects(
    store.deleteUser(guest),
    UNAVAILABLE,
    "whom a prefix in it is shared with: that cannot be undone now",
  );
  t.same(await store.listShared(guest, { limit: 9 }), [], "lists pass it over");
  copyFileSync(userFile(soundPrefixes, DAMAGED_USER), file);
  await store.deleteUser(guest);
  t.notOk((await store.head({ ...mine, name: "p0" }))!.shared_with!.includes(guest));

  truncateSync(file, 5 * PAGE);
  t.same(
    await store.deleteUser(DAMAGED_USER, { last: true }),
    { prefixes: 0, bytes: 0 },
    "its owner goes, though nobody can count what there was",
  );
  t.notOk(existsSync(file));
  await store.readmitUser(DAMAGED_USER);
  t.match(await store.put(await record(mine, 1)), { created: true });
});

t.test("a damaged index of shared prefixes is rebuilt from the prefixes, even if one of them is damaged", async (t) => {
  const guest = "a-guest-of-a-long-name-7";
  const indexOf = (dir: string): string =>
    join(sharesFolder(dir), readFileSync(join(sharesFolder(dir), "current"), "utf8"), "data.mdb");
  const names = async (store: PrefixStore): Promise<string[]> =>
    (await store.listShared(guest, { limit: 9 })).map(({ user, name }) => `${user}/${name}`);
  const dir = copyOf(soundPrefixes);
  const first = await openLmdbStore({ dir });
  await first.patchMeta(others, { shared_with: [guest] });
  await first.close();
  for (const damage of [
    (path: string) => truncateSync(path, PAGE),
    (path: string) => rmSync(path),
    (path: string) => overwrite(path, PAGE + 24, Buffer.alloc(16)),
  ]) {
    damage(indexOf(dir));
    const store = await openLmdbStore({ dir });
    t.same(await names(store), [`${DAMAGED_USER}/p0`, "bob/p"]);
    await store.close();
  }
  truncateSync(indexOf(dir), PAGE);
  truncateSync(userFile(dir, DAMAGED_USER), PAGE);
  const store = await openLmdbStore({ dir });
  t.teardown(() => store.close());
  t.same(await names(store), ["bob/p"]);
  await t.rejects(
    store.deleteUser("somebody-else"),
    UNAVAILABLE,
    "whether something in the damaged file is shared with them cannot be known",
  );
  copyFileSync(userFile(soundPrefixes, DAMAGED_USER), userFile(dir, DAMAGED_USER));
  await store.deleteUser(guest);
  t.same(await names(store), []);
  t.notOk((await store.head({ ...mine, name: "p0" }))!.shared_with!.includes(guest));
});

t.test("a first start that was killed before there was a file", async (t) => {
  const dir = mkdtempSync(join(sound, "first."));
  mkdirSync(join(dir, "users", "0"), { recursive: true });
  writeFileSync(join(dir, "users", "0", "data.mdb"), "");
  const users = await openLmdbUserStore({ dir });
  await users.createUser(user("ann"));
  await users.close();
  mkdirSync(join(dir, "removed", "half-made"), { recursive: true });
  writeFileSync(join(dir, "removed", "half-made", "data.mdb"), "");
  const store = await openLmdbStore({ dir });
  t.match(await store.put(await record(mine, 1)), { created: true });
  t.same(readdirSync(join(dir, "removed")), []);
  await store.close();
});
