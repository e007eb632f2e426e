/** An import after kill -9 at random moments: what is there is whole, and importing once more makes it all. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { importArchive } from "../../src/archive/import.ts";
import { user } from "../contract/user-store.ts";
import { record } from "../prefixes/records.ts";
import { effort } from "../support/effort.ts";
import { bareNode, SOURCES } from "../support/program.ts";
import { archiveOf, contentsOf, fill, openAt, openStores, read } from "./stores.ts";

const ROUNDS = effort({ short: 2, long: 10 });

t.test("a killed import", { timeout: 600_000 }, async (t) => {
  const dir = t.testdir();
  const source = await openStores(t, `lmdb:${join(dir, "source")}`);
  await fill(source);
  for (let i = 0; i < 20; i++) {
    await source.users.createUser(user(`u${i}`));
    await source.prefixes.put(await record({ user: `u${i}`, name: "p" }, i, { length: 20 }));
  }
  const archive = await archiveOf(source);
  const file = join(dir, "export");
  writeFileSync(file, archive);
  const at = `lmdb:${join(dir, "target")}`;
  let killed = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const child = spawn(...bareNode(...SOURCES, new URL("./crash-child.ts", import.meta.url).pathname, file, at), {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const ended = once(child, "close");
    let said = 0;
    createInterface({ input: child.stdout }).on("line", () => said++);
    const until = Math.floor((60 * (round + Math.random())) / ROUNDS);
    while (said < until && child.exitCode === null) await sleep(1);
    child.kill("SIGKILL");
    const [, signal] = (await ended) as [number | null, string | null];
    if (signal === "SIGKILL") killed++;
    const target = await openAt(at);
    for (const { id } of await target.users.listUsers({ limit: 99 }))
      for (const { name } of await target.prefixes.list(id, { limit: 9 })) {
        const [there, meant] = await Promise.all(
          [target, source].map(({ prefixes }) => prefixes.head({ user: id, name })),
        );
        t.equal(there!.digest, meant!.digest);
        const [kv, wanted] = await Promise.all(
          [target, source].map(({ prefixes }) => prefixes.loadKv(meant!, meant!.digest)),
        );
        t.ok(Buffer.compare(kv!, wanted!) === 0, `${id}/${name} is whole`);
      }
    await target.close();
  }
  t.ok(killed > 0, `killed at work ${killed} times of ${ROUNDS}`);
  const target = await openStores(t, at);
  t.match(await importArchive(read(archive), target), { conflicts: 0, deleted: 0 });
  t.same(await contentsOf(target), await contentsOf(source));
});
