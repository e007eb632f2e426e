/** What a process has of connections to Redis, and what waits for what on them. */
import { join } from "node:path";
import { setImmediate as nextTurn } from "node:timers/promises";
import t, { type Test } from "tap";
import { openRedis, type RedisConnection } from "../../src/redis/connection.ts";
import { openRedisStore } from "../../src/redis/prefix-store.ts";
import { openRedisUserStore } from "../../src/redis/user-store.ts";
import { apiKey, user } from "../contract/user-store.ts";
import { record, SHAPE } from "../prefixes/records.ts";
import { ADMIN_KEY, call, eventually, generate, INTENT } from "../support/fault-client.ts";
import { startFaultyProxy } from "../support/faulty-proxy.ts";
import { startRedis, type TestRedis } from "../support/redis.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { adapterForm, startServerProcess, temporaryFolder } from "../support/server.ts";

skipFileWithout(t, "redis-server");

async function start(t: Test): Promise<TestRedis> {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  return redis;
}

async function open(t: Test, url: string, commandTimeoutMs = 30_000): Promise<RedisConnection> {
  const redis = await openRedis({ url, commandTimeoutMs });
  t.teardown(() => redis.close());
  return redis;
}

/** Names of the connections, without that of who asks. */
async function connections(redis: TestRedis): Promise<string[]> {
  const list = String(await redis.command("CLIENT", "LIST"));
  return [...list.matchAll(/^id=.* name=(\S*) .* cmd=(\S+)/gm)]
    .filter(([, , cmd]) => cmd !== "client|list")
    .map(([, name]) => name!)
    .sort();
}

const OF_ONE_SERVER = ["prefixd-bulk", "prefixd-commands", "prefixd-messages"];

t.test("a server has three connections, whatever it is asked, and leaves none", { timeout: 60_000 }, async (t) => {
  const redis = await start(t);
  const folder = temporaryFolder();
  t.teardown(() => folder.remove());
  const server = await startServerProcess(["--cache-dir", join(folder.path, "cache"), "--store", redis.url], {
    PREFIXD_ADMIN_KEY: ADMIN_KEY,
  });
  t.teardown(() => server.signal("SIGKILL"));
  t.same(await connections(redis), OF_ONE_SERVER);
  await call(server, "POST", "/admin/users", { id: "ann", limits: { tokens_per_minute: 10_000 } });
  const ann = String((await call(server, "POST", "/admin/users/ann/keys")).body.key);
  t.equal((await call(server, "PUT", "/prefixes/mine", adapterForm("prefixes/intent"), ann)).status, 201);
  t.equal((await generate(server, "mine", {}, ann)).body.choices?.[0]?.text, INTENT);
  t.equal((await call(server, "DELETE", "/admin/users/ann")).status, 200);
  t.same(await connections(redis), OF_ONE_SERVER);
  server.signal("SIGTERM");
  t.equal(await server.exited, 0);
  t.same(await connections(redis), []);
});

t.test("a small command does not wait behind a large prefix on a narrow network", { timeout: 60_000 }, async (t) => {
  const real = await start(t);
  const proxy = await startFaultyProxy(real.port);
  t.teardown(() => proxy.stop());
  const redis = await open(t, `redis://127.0.0.1:${proxy.port}`);
  const [prefixes, users] = [await openRedisStore({ redis }), await openRedisUserStore({ redis })];
  const large = await record({ user: "ann", name: "large" }, 1, {
    shape: { ...SHAPE, layers: 16, heads: 16, headDim: 16 },
    length: 60,
  });
  await prefixes.put(large);
  // Two seconds for the prefix.
  proxy.bandwidth = large.kv.length / 2;
  let loaded = false;
  proxy.cutAfter.down = Number.MAX_SAFE_INTEGER;
  const loading = prefixes.loadKv(large.meta, large.meta.digest).finally(() => (loaded = true));
  await eventually(async () => proxy.cutAfter.down < Number.MAX_SAFE_INTEGER - 10_000);
  for (let i = 0; i < 3; i++) await users.getUser("ann");
  t.notOk(loaded, "three round trips took less than the rest of the prefix");
  t.ok(Buffer.compare((await loading)!, large.kv) === 0);
});

t.test("a small command does not wait for Redis' replicas, as a removal does", { timeout: 60_000 }, async (t) => {
  const [primary, replica] = [await start(t), await start(t)];
  await replica.command("REPLICAOF", "127.0.0.1", String(primary.port));
  await eventually(async () => /slave0:.*state=online/.test(String(await primary.command("INFO", "replication"))));
  const redis = await open(t, primary.url);
  const users = await openRedisUserStore({ redis });
  t.teardown(() => users.close());
  const key = apiKey("ann");
  await users.createUser(user("ann"));
  await users.putKey(key);
  replica.signal("SIGSTOP");
  let ended = false;
  const removing = users.deleteKey("ann", key.id).catch((error: unknown) => error);
  void removing.then(() => (ended = true));
  await eventually(async () => / cmd=wait /.test(String(await primary.command("CLIENT", "LIST"))));
  t.equal(await users.findKey(key.id), null);
  // An answer that came together with this one has been heard by then.
  await nextTurn();
  t.notOk(ended, "it is still being waited for");
  t.match(await removing, { code: "store_unavailable" });
  replica.signal("SIGCONT");
});

t.test("a subscriber of one channel hears no other", { timeout: 30_000 }, async (t) => {
  const real = await start(t);
  const redis = await open(t, real.url);
  const heard: string[] = [];
  redis.subscribe("a", (message) => heard.push(`a ${message}`));
  redis.subscribe("b", (message) => heard.push(`b ${message}`));
  await eventually(async () => Number(await real.command("PUBLISH", "b", "ready")) === 1);
  await eventually(async () => Number(await real.command("PUBLISH", "a", "1")) === 1);
  await real.command("PUBLISH", "b", "2");
  await eventually(async () => heard.includes("b 2"));
  t.same(
    heard.filter((each) => !each.endsWith("ready")),
    ["a 1", "b 2"],
  );
});

t.test("users of shared connections leave them open; a user with its own closes it", { timeout: 30_000 }, async (t) => {
  const real = await start(t);
  const redis = await open(t, real.url);
  for (const store of [await openRedisStore({ redis }), await openRedisUserStore({ redis })]) await store.close();
  t.equal(await redis.client.ping(), "PONG");
  const own = await openRedisStore({ url: real.url });
  t.equal((await connections(real)).length, 6);
  await own.close();
  await eventually(async () => (await connections(real)).length === 3);
});
