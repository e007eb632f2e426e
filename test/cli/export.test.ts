/** `prefixd export` and `prefixd import` in this process: files, streams, exit by error. */
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { exportStore } from "../../src/cli/export.ts";
import { importStore } from "../../src/cli/import.ts";
import { lockFolder } from "../../src/lmdb/folder-lock.ts";
import { contentsOf, fill, openAt } from "../archive/stores.ts";
import { record } from "../prefixes/records.ts";

for (const name of Object.keys(process.env)) if (name.startsWith("PREFIXD_")) delete process.env[name];
const dir = t.testdir();
const at = (name: string): string => join(dir, name);
const source = await openAt(`lmdb:${at("source")}`);
await fill(source);
const contents = await contentsOf(source);
await source.close();

let out: string[] = [];
let err: string[] = [];
t.beforeEach(() => ([out, err] = [[], []]));
console.log = (text: string) => void out.push(text);
console.error = (text: string) => void err.push(text);

t.test("a store goes to a file and into another store", async (t) => {
  await exportStore(["--store", `lmdb:${at("source")}`, "--out", at("all.export")]);
  t.same(err, ["exported 2 users, 3 keys, 5 prefixes, 11 usage rows"]);
  t.equal(statSync(at("all.export")).mode & 0o777, 0o600);
  t.notOk(existsSync(at("all.export.partial")));
  t.notMatch(readFileSync(at("all.export"), "latin1"), /pfx_/);
  await importStore(["--in", at("all.export"), "--check"]);
  t.same(out, ["the export is whole: 11 records"]);
  await importStore(["--in", at("all.export"), "--store", `lmdb:${at("target")}`]);
  t.match(out[1], /^users: 2 imported, 0 there already\nkeys: 3 imported.*\nleft out.*: 0$/s);
  await importStore(["--in", at("all.export"), "--store", `lmdb:${at("target")}`, "--json"]);
  t.match(JSON.parse(out[2]!), { imported: { users: 0 }, present: { users: 2, prefixes: 5 } });
  const target = await openAt(`lmdb:${at("target")}`);
  t.same(await contentsOf(target), contents);
  await target.prefixes.put(await record({ user: "ann", name: "p" }, 9));
  await target.close();
  await t.rejects(importStore(["--in", at("all.export"), "--store", `lmdb:${at("target")}`]), {
    name: "CommandError",
    message: /^there with other content: 1 record \(/,
  });
  t.match(err.at(-1), /^prefixd: prefix ann\/p: there is another/);
  await importStore(["--in", at("all.export"), "--store", `lmdb:${at("target")}`, "--replace"]);
});

t.test("a file that exists is not overwritten unasked", async (t) => {
  writeFileSync(at("there"), "mine");
  const args = ["--store", `lmdb:${at("source")}`, "--out", at("there")];
  await t.rejects(exportStore(args), { name: "CommandError", message: /exists already/ });
  t.equal(readFileSync(at("there"), "utf8"), "mine");
  await exportStore([...args, "--force", "--user", "bob"]);
  t.same(err, ["exported 1 user, 1 key, 1 prefix, 1 usage row"]);
  await t.rejects(exportStore([...args, "--force", "--user", "eve"]), { code: "user_not_found" });
  t.notOk(existsSync(at("there.partial")), "nothing half-written stays");
  t.match(readFileSync(at("there"), "latin1"), /"kind":"end"/, "what was there is still there");
});

t.test("a damaged file is refused before anything is written, with the place", async (t) => {
  const bytes = readFileSync(at("all.export"));
  for (const [damaged, message] of [
    [bytes.subarray(0, -300), /is cut off: the export ends at byte \d+$/],
    [bytes.with(bytes.length >> 1, 0xff), /at byte \d+, is not (as it was written|a record)/],
    [Buffer.from("other"), /at byte 0, is cut off/],
  ] as const) {
    writeFileSync(at("damaged"), damaged);
    const args = ["--in", at("damaged"), "--store", `lmdb:${at("fresh")}`];
    await t.rejects(importStore(args), { name: "ArchiveError", message });
    t.notOk(existsSync(at("fresh")));
  }
});

t.test("bad usage and stores that cannot be had are one line", async (t) => {
  const usage = { name: "ConfigError" };
  await t.rejects(exportStore(["--store", "lmdb:x"]), usage);
  await t.rejects(exportStore(["--out", at("x")]), { ...usage, message: "export: give --store URL or PREFIXD_STORE" });
  await t.rejects(exportStore(["--out", at("x"), "--store", "sqlite:x"]), usage);
  await t.rejects(exportStore(["--out", at("x"), "--store", "lmdb:x", "more"]), usage);
  await t.rejects(importStore([]), usage);
  await t.rejects(importStore(["--in", at("all.export")]), usage);
  await t.rejects(importStore(["--in", at("none"), "--check"]), {
    ...usage,
    message: `--in ${at("none")}: there is no such file or folder`,
  });
  await t.rejects(exportStore(["--out", at("none/x"), "--store", "lmdb:x"]), {
    ...usage,
    message: /^--out .*no folder/,
  });
  await t.rejects(exportStore(["--out", at("x"), "--store", `lmdb:${at("none")}`]), {
    name: "CommandError",
    message: /there is no such folder$/,
  });
  t.notOk(existsSync(at("none")));
  mkdirSync(at("held"));
  const lock = await lockFolder(at("held"));
  t.teardown(() => lock.release());
  for (const command of [
    () => exportStore(["--out", at("x"), "--store", `lmdb:${at("held")}`]),
    () => importStore(["--in", at("all.export"), "--store", `lmdb:${at("held")}`]),
  ])
    await t.rejects(command, {
      name: "CommandError",
      message: /^--store .* is in use by process \d+: stop it first .*backup/,
    });
});
