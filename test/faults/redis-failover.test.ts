/** A failover of Redis under load: by Sentinels, and in a Cluster. What was confirmed stays, and the server recovers. */
import { join } from "node:path";
import t, { type Test } from "tap";
import { openRedisUserStore } from "../../src/redis/user-store.ts";
import { user, usageRow } from "../contract/user-store.ts";
import { ADMIN_KEY, call, eventually, generate, INTENT, longStream } from "../support/fault-client.ts";
import { startRedisCluster, startSentinelRedis, type TestRedis } from "../support/redis.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { adapterForm, startServerProcess, temporaryFolder, type TestServer } from "../support/server.ts";

skipFileWithout(t, "redis-server");

const folder = temporaryFolder();
t.teardown(() => folder.remove());

async function start(t: Test, store: string): Promise<TestServer> {
  const server = await startServerProcess(["--cache-dir", join(folder.path, "cache"), "--store", store], {
    PREFIXD_ADMIN_KEY: ADMIN_KEY,
  });
  t.teardown(() => server.signal("SIGKILL"));
  return server;
}

/** Requests of ann, one after the other, until told to stop; counts by code. */
function load(server: TestServer, key: string): { readonly codes: Map<string, number>; stop(): Promise<void> } {
  const codes = new Map<string, number>();
  let over = false;
  const work = async (): Promise<void> => {
    while (!over) {
      const { status, code, body } = await generate(server, "mine", {}, key);
      const outcome = status === 200 ? (body.choices?.[0]?.text === INTENT ? "ok" : "wrong") : code;
      codes.set(outcome, (codes.get(outcome) ?? 0) + 1);
    }
  };
  const workers = [work(), work()];
  return {
    codes,
    stop: async () => {
      over = true;
      await Promise.all(workers);
    },
  };
}

/** What holds when `fail` has the primaries replaced while requests run. */
async function failsOver(t: Test, url: string, fail: () => Promise<void>): Promise<void> {
  const server = await start(t, url);
  for (const id of ["ann", "bob", "eve"]) t.equal((await call(server, "POST", "/admin/users", { id })).status, 201);
  const [ann, bob] = [
    String((await call(server, "POST", "/admin/users/ann/keys")).body.key),
    String((await call(server, "POST", "/admin/users/bob/keys")).body.key),
  ];
  t.equal((await call(server, "PUT", "/prefixes/mine", adapterForm("prefixes/intent"), ann)).status, 201);
  t.equal((await call(server, "PATCH", "/admin/users/eve", { suspended: true })).status, 200);
  // Waits until Redis' replicas have all of the above.
  t.equal((await call(server, "DELETE", "/admin/users/bob")).status, 200);
  const requests = load(server, ann);
  await eventually(async () => (requests.codes.get("ok") ?? 0) > 5);
  const stream = await longStream(server, "mine", ann);
  await fail();
  // On a busy machine a failover may take longer than the lease of ten seconds.
  t.match(
    await stream.rest(),
    /"finish_reason":"length"|"code":"store_unavailable"/,
    "what runs goes on, or says why not",
  );
  await eventually(async () => (await call(server, "PATCH", "/admin/users/ann", { weight: 2 })).status === 200);
  const before = requests.codes.get("ok") ?? 0;
  await eventually(async () => (requests.codes.get("ok") ?? 0) > before + 5);
  await requests.stop();
  t.same(
    [...requests.codes.keys()].filter((code) => code !== "ok" && code !== "store_unavailable"),
    [],
  );
  t.equal((await call(server, "GET", "/prefixes", undefined, bob)).status, 401);
  t.equal((await call(server, "GET", "/admin/users/bob")).status, 404, "who was removed stays removed");
  t.match((await call(server, "GET", "/admin/users/eve")).body, { suspended: true });
  t.equal((await call(server, "DELETE", "/admin/users/ann")).status, 200, "and removals work");
}

t.test("Sentinels make the replica the primary", { timeout: 300_000 }, async (t) => {
  const sentinels = await startSentinelRedis();
  t.teardown(() => sentinels.stop());
  await failsOver(t, sentinels.url, () => sentinels.primary.kill());
  t.match(await sentinels.replica.command("ROLE"), ["master"]);
});

t.test("a Cluster's replicas take their primaries' places", { timeout: 300_000 }, async (t) => {
  const cluster = await startRedisCluster({ replicas: true });
  t.teardown(() => cluster.stop());
  const [a, b, ofA, ofB] = cluster.nodes as [TestRedis, TestRedis, TestRedis, TestRedis];
  for (const primary of [a, b])
    await eventually(async () => /slave0:.*state=online/.test(String(await primary.command("INFO", "replication"))));
  await failsOver(t, cluster.url, async () => {
    await a.kill();
    // Two primaries are no majority without one of them, so an operator decides.
    await ofA.command("CLUSTER", "FAILOVER", "TAKEOVER");
    await eventually(async () => String(await b.command("CLUSTER", "INFO")).includes("cluster_state:ok"));
    await ofB.command("CLUSTER", "FAILOVER");
  });
});

t.test("Sentinels that know no such primary, or are away, are an error in time", { timeout: 120_000 }, async (t) => {
  const sentinels = await startSentinelRedis();
  t.teardown(() => sentinels.stop());
  const unknown = await openRedisUserStore({ url: sentinels.url.replace("test-primary", "x"), commandTimeoutMs: 500 });
  t.teardown(() => unknown.close());
  await t.rejects(unknown.createUser(user("ann")), { code: "store_unavailable" });
  const users = await openRedisUserStore({ url: sentinels.url, commandTimeoutMs: 1000 });
  t.teardown(() => users.close());
  await users.createUser(user("ann"));
  await users.addUsage([usageRow("ann", null, "2026-01-01")]);
  await sentinels.primary.kill();
  await eventually(async () => String(await sentinels.replica.command("ROLE")).startsWith("master"));
  await eventually(() => users.addUsage([usageRow("ann", null, "2026-01-01")]).then(() => true));
  await eventually(async () => (await users.usageSums("ann", {})).requests === 2);
});
