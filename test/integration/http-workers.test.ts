/** The program with --http-workers: what tells of them, and that they end with it. */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { startServerProcess, temporaryFolder, type TestServer } from "../support/server.ts";

const { path: folder, remove } = temporaryFolder();
t.teardown(remove);

const start = (name: string): Promise<TestServer> =>
  startServerProcess(["--store", `lmdb:${folder}/${name}`], { PREFIXD_HTTP_WORKERS: "2" });

const isAlive = (pid: number): boolean => {
  try {
    // A zombie's is empty.
    return readFileSync(`/proc/${pid}/cmdline`, "latin1") !== "";
  } catch {
    return false;
  }
};

const workersOf = ({ pid }: TestServer): number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1")
    .trim()
    .split(" ")
    .map(Number)
    .filter((child) => readFileSync(`/proc/${child}/cmdline`, "latin1").includes("workers/main"));

async function ended(pids: readonly number[]): Promise<void> {
  for (const end = performance.now() + 30_000; pids.some(isAlive); await sleep(20))
    if (performance.now() > end) throw new Error(`still alive: ${pids.filter(isAlive).join()}`);
}

t.test(
  "probes and metrics tell of workers, which end with the server",
  { skip: process.platform !== "linux" },
  async (t) => {
    const server = await start("stopped");
    t.teardown(() => server.signal("SIGKILL"));
    const pids = workersOf(server);
    t.equal(pids.length, 2);
    const ready = (await (await fetch(`${server.url}/health/ready`)).json()) as { checks: Record<string, string> };
    t.match(ready.checks, { http_workers: "ok" });
    t.equal(await server.metric("prefixd_http_workers"), 2);
    t.match((await server.json("/generate", { prompt: "a", max_new_tokens: 2 })).body, {
      usage: { completion_tokens: 2 },
    });
    // A service manager signals all of a service's processes; it is the server who says when they end.
    for (const pid of pids) process.kill(pid, "SIGTERM");
    t.equal((await server.json("/generate", { prompt: "a", max_new_tokens: 2 })).status, 200);
    t.same(pids.filter(isAlive), pids);
    server.signal("SIGTERM");
    t.equal(await server.exited, 0);
    await ended(pids);
  },
);

t.test("workers end with a server that is killed", { skip: process.platform !== "linux" }, async (t) => {
  const server = await start("killed");
  const pids = workersOf(server);
  t.equal(pids.length, 2);
  server.signal("SIGKILL");
  await server.exited;
  await t.resolves(ended(pids));
});
