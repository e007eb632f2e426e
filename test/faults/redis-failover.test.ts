/** A failover of Redis under load: by Sentinels, and in a Cluster. What was confirmed stays, and the server recovers. */
import { join } from "node:path";
import t, { type Test } from "tap";
import { openRedisUserStore } from "../../src/redis/user-store.ts";
import { user, usageRow } from "../contract/user-store.ts";
import { ADMIN_KEY, call, eventually, generate, INTENT, longStream } from "../support/fault-client.ts";
import { startFaultyProxy } from "../support/faulty-proxy.ts";
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
  await eventually(async () => {
    const { status, code } = await call(server, "PATCH", "/admin/users/ann", { weight: 2 });
    if (status !== 200) throw new Error(`${status} ${code}`);
    return true;
  });
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
  await failsOver(t, sentinels.url, () => sentinels.killPrimary());
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
    // Given up after five seconds, as on a busy machine.
    await eventually(async () => {
      if (String(await ofB.command("ROLE")).startsWith("master")) return true;
      await ofB.command("CLUSTER", "FAILOVER");
      return false;
    });
  });
});

// Far away, nearly all the time until the Sentinel tells of the new primary is spent on asking it for one.
t.test("the new primary is found even if it is told while the Sentinel is asked", { timeout: 300_000 }, async (t) => {
  const sentinels = await startSentinelRedis();
  t.teardown(() => sentinels.stop());
  const sentinelPort = Number(/:(\d+)\?/.exec(sentinels.url)![1]);
  const proxy = await startFaultyProxy(sentinelPort);
  t.teardown(() => proxy.stop());
  const url = sentinels.url.replace(`:${sentinelPort}?`, `:${proxy.port}?`);
  const users = await openRedisUserStore({ url, commandTimeoutMs: 20_000 });
  t.teardown(() => users.close());
  await users.ping();
  // A connection asks to be told once it is there.
  await eventually(async () => (await sentinels.listeners()) === 3);
  proxy.latency = 1000;
  await sentinels.killPrimary();
  await eventually(() => users.ping().then(() => true));
  await eventually(async () => {
    const clients = String(await sentinels.replica.command("CLIENT", "LIST"));
    return new Set(clients.match(/ name=prefixd-\w+/g)).size === 3;
  });
  t.pass("on all connections");
});

/** Of what a primary has written, or a replica has got. */
const replicationOffset = async (node: TestRedis): Promise<number> =>
  Number(/^(?:slave|master)_repl_offset:(\d+)/m.exec(String(await node.command("INFO", "replication")))![1]);

t.test("Sentinels that know no such primary, or are away, are an error in time", { timeout: 300_000 }, async (t) => {
  const sentinels = await startSentinelRedis();
  t.teardown(() => sentinels.stop());
  const unknown = await openRedisUserStore({ url: sentinels.url.replace("test-primary", "x"), commandTimeoutMs: 500 });
  t.teardown(() => unknown.close());
  await t.rejects(unknown.createUser(user("ann")), { code: "store_unavailable" });
  // Long enough that an answer is never late on a busy machine: a request would be counted twice.
  const users = await openRedisUserStore({ url: sentinels.url, commandTimeoutMs: 20_000 });
  t.teardown(() => users.close());
  await users.createUser(user("ann"));
  await users.addUsage([usageRow("ann", null, "2026-01-01")]);
  const written = await replicationOffset(sentinels.primary);
  await eventually(async () => (await replicationOffset(sentinels.replica)) >= written);
  await sentinels.killPrimary();
  await eventually(async () => String(await sentinels.replica.command("ROLE")).startsWith("master"));
  await eventually(() => users.addUsage([usageRow("ann", null, "2026-01-01")]).then(() => true));
  await eventually(async () => (await users.usageSums("ann", {})).requests === 2);
});
