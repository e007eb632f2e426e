/** `prefixd backup` of a server that serves, and what an import makes of it. */
import { once } from "node:events";
import { existsSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import t from "tap";
import { exportArchive } from "../../src/archive/export.ts";
import { paced } from "../../src/archive/paced.ts";
import { backup } from "../../src/cli/backup.ts";
import { importStore } from "../../src/cli/import.ts";
import { lostTouch } from "../../src/errors.ts";
import { archiveOf, contentsOf, fill, openStores } from "../archive/stores.ts";
import { record } from "../prefixes/records.ts";
import { ADMIN_KEY, buildTestApp, until } from "../support/app.ts";

for (const name of Object.keys(process.env)) if (name.startsWith("PREFIXD_")) delete process.env[name];
const dir = t.testdir();
const at = (name: string): string => join(dir, name);
const source = await openStores(t, `lmdb:${at("source")}`);
await fill(source);
writeFileSync(at("key"), ADMIN_KEY);
console.error = () => {};
console.log = () => {};

const waiting: (() => void)[] = [];
let held = false;
let lost = false;
const check = (): void => {
  if (lost) throw lostTouch();
};
const app = await buildTestApp(t, {
  keyed: true,
  backup: async function* () {
    for await (const bytes of paced(exportArchive(source), { rate: 1 << 30, check })) {
      if (held) await new Promise<void>((resolve) => waiting.push(resolve));
      yield bytes;
    }
  },
});
const url = `http://127.0.0.1:${await app.listen()}`;
const flags = ["--url", url, "--admin-key-file", at("key")];

t.test("the file is an export, and the server's store can be made anew of it", async (t) => {
  await backup([...flags, "--out", at("backup")]);
  await importStore(["--store", `lmdb:${at("target")}`, "--in", at("backup")]);
  const target = await openStores(t, `lmdb:${at("target")}`);
  t.same(await contentsOf(target), await contentsOf(source));
  t.match(app.audits.at(-1), { action: "store.backup", outcome: "ok", user: "admin" });
  await t.rejects(backup([...flags, "--out", at("backup")]), /exists already/);
});

t.test("one at a time, also after a client that left", async (t) => {
  held = true;
  const authorization = `Bearer ${ADMIN_KEY}`;
  const leaving = new AbortController();
  const first = fetch(`${url}/admin/backup`, { method: "POST", headers: { authorization }, signal: leaving.signal });
  await until(() => waiting.length === 1);
  await t.rejects(backup([...flags, "--out", at("second")]), { name: "CommandError", message: /backup_busy/ });
  leaving.abort();
  await t.rejects(first);
  held = false;
  waiting.forEach((go) => go());
  let error: unknown = new Error("never");
  for (let attempt = 0; error !== null && attempt < 100; attempt++)
    error = await backup([...flags, "--out", at("third")]).then(
      () => null,
      (error: unknown) => error,
    );
  t.equal(error, null);
  t.notOk(existsSync(at("second")));
});

t.test("a server that loses its lease, or a user meanwhile, leaves no file", async (t) => {
  lost = true;
  t.teardown(() => (lost = false));
  await t.rejects(backup([...flags, "--out", at("lost")]), { name: "CommandError" });
  lost = false;
  const prefixes = {
    list: source.prefixes.list.bind(source.prefixes),
    head: source.prefixes.head.bind(source.prefixes),
    loadKv: source.prefixes.loadKv.bind(source.prefixes),
    loadFile: source.prefixes.loadFile.bind(source.prefixes),
    removalState: async (user: string) => (user === "bob" ? ("open" as const) : null),
  };
  await t.rejects(archiveOf({ users: source.users, prefixes }), { code: "removed" });
  t.notOk(existsSync(at("lost")) || existsSync(at("lost.partial")));
});

t.test("what cuts or changes the bytes on their way is found", async (t) => {
  const archive = await archiveOf(source);
  let sent = archive;
  const proxy = createServer((_request, response) => void response.end(sent)).listen(0, "127.0.0.1");
  await once(proxy, "listening");
  t.teardown(() => void proxy.close());
  const through = [`--url=http://127.0.0.1:${(proxy.address() as AddressInfo).port}`, "--out", at("through")];
  for (const damaged of [archive.subarray(0, -5), archive.with(archive.length >> 1, 0xff) as Buffer]) {
    sent = Buffer.from(damaged);
    await t.rejects(backup(through), { name: "ArchiveError" });
    t.notOk(existsSync(at("through")) || existsSync(at("through.partial")));
  }
  sent = archive;
  await backup(through);
  t.ok(existsSync(at("through")));
});

t.test("a prefix that is replaced meanwhile is in it as one of its versions", async (t) => {
  const key = { user: "ann", name: "p" };
  const [one, two] = [await record(key, 1), await record(key, 77)];
  for (const at of [0, 1]) {
    let reads = 0;
    const prefixes = {
      list: source.prefixes.list.bind(source.prefixes),
      loadKv: source.prefixes.loadKv.bind(source.prefixes),
      loadFile: source.prefixes.loadFile.bind(source.prefixes),
      removalState: source.prefixes.removalState.bind(source.prefixes),
      head: async (asked: typeof key) => {
        if (asked.user === "ann" && asked.name === "p" && reads++ === at)
          await source.prefixes.put(at === 0 ? two : one);
        return source.prefixes.head(asked);
      },
    };
    const archive = (await archiveOf({ users: source.users, prefixes })).toString("latin1");
    t.ok(archive.includes(`"digest":"${(at === 0 ? two : one).meta.digest}"`));
  }
});
