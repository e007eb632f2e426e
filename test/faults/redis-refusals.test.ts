/** Redis refuses (out of memory, read-only, loading, unable to save, wrong credentials) or evicts parts of a prefix. */
import { rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import type { PrefixdError } from "../../src/errors.ts";
import { openRedisStore } from "../../src/redis/prefix-store.ts";
import type { PrefixStore } from "../../src/prefixes/store.ts";
import { openRedisReplicaBus } from "../../src/redis/replica-bus.ts";
import { openRedisUserStore } from "../../src/redis/user-store.ts";
import { usageRow, user } from "../contract/user-store.ts";
import { record, SHAPE } from "../prefixes/records.ts";
import { ADMIN_KEY, call, eventually, generate, INTENT, type Reply } from "../support/fault-client.ts";
import { startRedis, type TestRedis } from "../support/redis.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { adapterForm, runCli, startServerProcess, temporaryFolder } from "../support/server.ts";

skipFileWithout(t, "redis-server");

const key = { user: "ann", name: "poem" };
const unavailable = { code: "store_unavailable", status: 503, retryAfter: 2 };

async function setUp(t: Test, ...args: string[]): Promise<{ redis: TestRedis; store: PrefixStore }> {
  const redis = await startRedis(...args);
  t.teardown(() => redis.stop());
  const store = await openRedisStore({ url: redis.url, commandTimeoutMs: 1000 });
  t.teardown(() => store.close());
  return { redis, store };
}

t.test(
  "a server whose Redis is full, then read-only, and then has lost parts of prefixes",
  { timeout: 120_000 },
  async (t) => {
    const folder = temporaryFolder();
    t.teardown(() => folder.remove());
    const { redis } = await setUp(t, "--maxmemory-policy", "noeviction");
    const server = await startServerProcess(
      ["--cache-dir", join(folder.path, "cache"), "--store", redis.url, "--prefix-cache-bytes", "1"],
      { PREFIXD_ADMIN_KEY: ADMIN_KEY },
    );
    t.teardown(() => server.signal("SIGKILL"));
    const put = (name: string, from = "intent"): Promise<Reply> =>
      call(server, "PUT", `/prefixes/${name}`, adapterForm(`prefixes/${from}`));
    t.equal((await put("mine")).status, 201);
    for (const id of ["ann", "bob", "eve"])
      t.equal((await call(server, "POST", "/admin/users", { id, limits: { tokens_per_minute: 1000 } })).status, 201);
    const ann = String((await call(server, "POST", "/admin/users/ann/keys")).body.key);
    const sharing = { visibility: "shared", shared_with: ["bob", "eve"], readable_by: ["bob"] };
    t.equal((await call(server, "PATCH", "/prefixes/mine", sharing)).status, 200);

    await t.test("full", async (t) => {
      await redis.command("CONFIG", "SET", "maxmemory", "1");
      for (const name of ["mine", "other"]) t.match(await put(name, "datenorm"), { status: 507, code: "store_full" });
      t.match(await call(server, "POST", "/admin/users", { id: "carl" }), { status: 507, code: "store_full" });
      t.equal(
        (await generate(server, "mine")).body.choices?.[0]?.text,
        INTENT,
        "the old version, from Redis itself: nothing is cached here",
      );
      t.equal(
        (await generate(server, "admin/mine", {}, ann)).body.choices?.[0]?.text,
        INTENT,
        "a user with a limit of tokens too",
      );
      const patch = (path: string, body: object): Promise<Reply> => call(server, "PATCH", path, body);
      for (const suspended of [true, false]) t.equal((await patch("/admin/users/bob", { suspended })).status, 200);
      t.match(await patch("/prefixes/mine", { readable_by: ["ann", "bob"] }), { code: "store_full" });
      t.match(await patch("/prefixes/mine", { readable_by: [] }), { status: 200 }, "access can be taken away");
      t.match(await call(server, "DELETE", "/admin/users/bob"), { status: 200 }, "a user can be removed");
      t.match(await call(server, "DELETE", "/admin/users/eve?keep_usage=true"), { status: 200 });
      t.match((await call(server, "GET", "/prefixes/mine")).body, { shared_with: [], readable_by: [] });
      t.equal((await call(server, "GET", "/health/ready")).status, 200);
      await eventually(
        async () => (await call(server, "GET", "/usage", undefined, ann)).body.usage?.[0]?.requests === 1,
      );
      t.pass("usage is counted");
      await redis.command("CONFIG", "SET", "maxmemory", "0");
      t.equal((await put("other")).status, 201);
    });

    await t.test("read-only: a replica that has lost its primary, or a failover", async (t) => {
      await redis.command("REPLICAOF", "127.0.0.1", "1");
      t.match(await put("other", "datenorm"), { status: 503, code: "store_unavailable", retryAfter: 2 });
      t.match(await call(server, "DELETE", "/prefixes/other"), { status: 503, code: "store_unavailable" });
      t.equal((await generate(server, "other")).body.choices?.[0]?.text, INTENT);
      await redis.command("REPLICAOF", "NO", "ONE");
      t.equal((await put("other", "datenorm")).status, 200);
    });

    await t.test("a chunk that has gone, and one with other bytes", async (t) => {
      for (const damage of [["DEL"], ["SETRANGE", "100", "nonsense"]] as const) {
        const entry = JSON.parse(
          String(await redis.command("HGET", "prefixd:{admin}:prefixes", "mine")).split("\n")[0]!,
        ) as { upload: string };
        await redis.command(damage[0], `prefixd:{admin}:chunk:${entry.upload}:0`, ...damage.slice(1));
        t.match(await generate(server, "mine"), { status: 500, code: "prefix_damaged" });
        t.equal((await generate(server, null)).status, 200, "the server lives");
        t.equal((await put("mine")).status, 200);
        t.equal((await generate(server, "mine")).body.choices?.[0]?.text, INTENT, "uploaded again it is whole");
      }
    });
  },
);

t.test("full: a replica keeps its lease, and usage is counted", { timeout: 30_000 }, async (t) => {
  const { redis } = await setUp(t, "--maxmemory-policy", "noeviction");
  const users = await openRedisUserStore({ url: redis.url });
  t.teardown(() => users.close());
  await users.createUser(user("ann"));
  let lapses = 0;
  const bus = await openRedisReplicaBus({
    url: redis.url,
    leaseMs: 300,
    handler: async () => ({ running: 0, queued: 0 }),
    onLapse: () => lapses++,
  });
  t.teardown(() => bus.close());
  await redis.command("CONFIG", "SET", "maxmemory", "1");
  await sleep(1000);
  t.ok(bus.mayServe());
  t.equal(lapses, 0);
  t.equal((await bus.broadcast({ kind: "user", user: "ann" })).replicas.length, 1, "and removals get through");
  await users.addUsage([usageRow("ann", "p", "2026-01-01")]);
  t.equal((await users.usage("ann", { limit: 9 })).length, 1);
});

t.test("loading its data: refused until it has them", { timeout: 60_000 }, async (t) => {
  const { redis, store } = await setUp(t, "--appendonly", "yes", "--appendfsync", "always");
  const put = await record(key, 1);
  await store.put(put);
  await redis.command("EVAL", "for i = 1, 3000 do redis.call('SET', 'other:' .. i, i) end", "0");
  await redis.command("BGREWRITEAOF");
  await eventually(async () =>
    /aof_rewrite_in_progress:0[^]*aof_last_bgrewrite_status:ok/.test(
      String(await redis.command("INFO", "persistence")),
    ),
  );
  await redis.kill();
  // Loading takes about a second.
  const started = redis.start({ args: ["--key-load-delay", "300", "--loading-process-events-interval-bytes", "1024"] });
  await t.rejects(store.head(key), unavailable);
  await started;
  await eventually(async () => (await store.head(key)) !== null);
  t.same(await store.head(key), put.meta);
});

t.test("not able to save: writes are refused, reads go on", { timeout: 30_000 }, async (t) => {
  const { redis, store } = await setUp(t);
  await store.put(await record(key, 1));
  await redis.command("CONFIG", "SET", "save", "3600 1");
  rmSync(redis.dir, { recursive: true });
  await redis.command("BGSAVE");
  await eventually(async () =>
    String(await redis.command("INFO", "persistence")).includes("rdb_last_bgsave_status:err"),
  );
  await t.rejects(store.put(await record(key, 2)), { ...unavailable, cause: { message: /MISCONF/ } });
  t.equal((await store.head(key))?.digest, (await record(key, 1)).meta.digest);
  await redis.command("CONFIG", "SET", "stop-writes-on-bgsave-error", "no");
  t.match(await store.put(await record(key, 2)), { created: false });
});

t.test("wrong credentials end the start with one line", { timeout: 60_000 }, async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  await redis.command("ACL", "SETUSER", "nobody", "on", ">word", "+info", "+client", "+ping");
  const at = (login: string, rest = ""): string => `redis://${login}127.0.0.1:${redis.port}${rest}`;
  const failures: [what: string, url: string, message: RegExp][] = [
    ["wrong password", at("nobody:wrong@"), /WRONGPASS/],
    ["no permissions", at("nobody:word@"), /NOPERM/],
    ["no such database", at("", "/99"), /DB index/],
  ];
  for (const [what, url, message] of failures) {
    const error = await openRedisStore({ url }).catch((error: unknown) => error as PrefixdError);
    t.match(error, { code: "store_unavailable", message }, what);
  }
  await redis.command("ACL", "SETUSER", "default", ">secret");
  const { exited, stderr, stdout } = runCli(["serve", "--port", "0", "--store", redis.url]);
  t.equal(await exited, 1);
  t.match(stderr(), /^prefixd: Redis refuses what --store asks for: NOAUTH[^\n]*\n$/);
  t.notMatch(stdout(), /listening/);
});

t.test("an operator is warned of a Redis that evicts", { timeout: 30_000 }, async (t) => {
  const redis = await startRedis("--maxmemory-policy", "allkeys-lru");
  t.teardown(() => redis.stop());
  const warnings: string[] = [];
  const store = await openRedisStore({ url: redis.url, onError: (error) => warnings.push(error.message) });
  t.teardown(() => store.close());
  t.match(warnings, [/allkeys-lru.*noeviction/]);
  t.match(await store.put({ ...(await record(key, 1, { shape: SHAPE })) }), { created: true });
});
