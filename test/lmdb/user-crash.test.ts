/** Users on LMDB after kill -9 at random moments: what was answered is there, what was removed is not, and nothing is half. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { openLmdbUserStore } from "../../src/lmdb/user-store.ts";
import { effort } from "../support/effort.ts";
import { bareNode, SOURCES } from "../support/program.ts";

const ROUNDS = effort({ short: 3, long: 6 });

t.test("a process killed at any moment", { timeout: 60_000 }, async (t) => {
  const dir = t.testdir();
  const answered = new Set<string>();
  let killed = 0;
  for (let round = 0; round < ROUNDS; round++) {
    const child = spawn(
      ...bareNode(...SOURCES, new URL("./user-crash-child.ts", import.meta.url).pathname, dir, String(round)),
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    const ended = once(child, "close");
    const lines = createInterface({ input: child.stdout });
    const ready = once(lines, "line");
    lines.on("line", (line) => answered.add(line));
    await Promise.race([ready, ended]);
    await sleep(Math.random() * 150);
    child.kill("SIGKILL");
    const [, signal] = (await ended) as [number | null, string | null];
    if (signal === "SIGKILL") killed++;
    const store = await openLmdbUserStore({ dir });
    for (const line of answered) {
      const [what, id = ""] = line.split(" ");
      if (what === "ready") continue;
      const there = await store.getUser(id);
      const keys = await store.listKeys(id);
      if (what === "removed" && (there !== null || keys.length > 0)) t.fail(`${id} has come back`);
      if (what === "created" && !id.endsWith("doomed") && there === null) t.fail(`${id} is lost`);
      if (what === "key" && !id.endsWith("doomed") && keys.length !== 1) t.fail(`the key of ${id} is lost`);
      if (there === null && keys.length > 0) t.fail(`${id} is half removed`);
    }
    await store.close();
    t.ok(
      readdirSync(join(dir, "users")).length <= 2,
      `round ${round}: one environment, and the pointer to it, of ${answered.size} answers`,
    );
  }
  t.ok(killed > ROUNDS / 2, `killed at work ${killed} times of ${ROUNDS}`);
});
