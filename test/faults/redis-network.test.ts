/** A bad network between a server and its Redis: slow, low bandwidth, cut mid-command, or accepting but silent. */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { openRedisStore } from "../../src/redis/prefix-store.ts";
import type { PrefixStore } from "../../src/prefixes/store.ts";
import { openRedisReplicaBus } from "../../src/redis/replica-bus.ts";
import { record, SHAPE } from "../prefixes/records.ts";
import { startFaultyProxy, type FaultyProxy } from "../support/faulty-proxy.ts";
import { effort } from "../support/effort.ts";
import { ADMIN_KEY, call, eventually, generate, INTENT } from "../support/fault-client.ts";
import { startRedis, type TestRedis } from "../support/redis.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { adapterForm, startServerProcess, temporaryFolder, type TestServer } from "../support/server.ts";

skipFileWithout(t, "redis-server");

const key = { user: "ann", name: "poem" };
const unavailable = { code: "store_unavailable", status: 503, retryAfter: 2 };
/** About a megabyte, in 16 chunks of 64 KiB. */
const BIG = { shape: { ...SHAPE, layers: 16, heads: 16, headDim: 16 }, length: 31 };
const UPLOAD_TTL_MS = 60_000;
/** Milliseconds each way. */
const FAR = effort({ short: 30, long: 100 });

async function setUp(t: Test): Promise<{
  redis: TestRedis;
  proxy: FaultyProxy;
  url: string;
  open: (commandTimeoutMs?: number) => Promise<PrefixStore>;
}> {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  const proxy = await startFaultyProxy(redis.port);
  t.teardown(() => proxy.stop());
  const url = `redis://127.0.0.1:${proxy.port}`;
  const open = async (commandTimeoutMs = 500): Promise<PrefixStore> => {
    const store = await openRedisStore({ url, commandTimeoutMs, chunkBytes: 64 * 1024, uploadTtlMs: UPLOAD_TTL_MS });
    t.teardown(() => store.close());
    return store;
  };
  return { redis, proxy, url, open };
}

t.test(`${2 * FAR} ms away everything works, and a removal's receipt comes`, { timeout: 90_000 }, async (t) => {
  const folder = temporaryFolder();
  t.teardown(() => folder.remove());
  const { proxy, url } = await setUp(t);
  const flags = ["--cache-dir", join(folder.path, "cache"), "--store", url];
  const start = (): Promise<TestServer> => startServerProcess(flags, { PREFIXD_ADMIN_KEY: ADMIN_KEY });
  const [one, two] = await Promise.all([start(), start()]);
  t.teardown(() => [one, two].forEach((server) => server.signal("SIGKILL")));
  proxy.latency = FAR;
  t.equal((await call(one, "POST", "/admin/users", { id: "ann", limits: { tokens_per_minute: 10_000 } })).status, 201);
  const ann = String((await call(one, "POST", "/admin/users/ann/keys")).body.key);
  t.equal((await call(one, "PUT", "/prefixes/mine", adapterForm("prefixes/intent"), ann)).status, 201);
  for (const server of [one, two]) t.equal((await generate(server, "mine", {}, ann)).body.choices?.[0]?.text, INTENT);
  t.equal((await call(one, "PUT", "/prefixes/mine", adapterForm("prefixes/datelong"), ann)).status, 200);
  // The change message may be late; without it, a verified answer is used for a second.
  await sleep(1500);
  t.not(
    (await generate(two, "mine", {}, ann)).body.choices?.[0]?.text,
    INTENT,
    "the replacement is seen by the other replica",
  );
  const receipt = await call(one, "DELETE", "/admin/users/ann");
  t.equal(receipt.status, 200);
  t.equal(
    (JSON.parse(receipt.text) as { replicas: { acknowledged_at: string | null }[] }).replicas.filter(
      ({ acknowledged_at }) => acknowledged_at !== null,
    ).length,
    2,
  );
  for (const server of [one, two]) t.equal((await generate(server, "mine", {}, ann)).status, 401);
});

t.test(
  "narrow: many records at once take turns, and none runs into the time limit of a command",
  { timeout: 60_000 },
  async (t) => {
    const { proxy, url } = await setUp(t);
    const store = await openRedisStore({ url, commandTimeoutMs: 1000 });
    t.teardown(() => store.close());
    // Sent all at once, this would take two seconds each way.
    proxy.bandwidth = 6 << 20;
    const records = await Promise.all(
      Array.from({ length: 12 }, (_, i) => record({ user: "ann", name: `p${i}` }, i, BIG)),
    );
    await Promise.all(records.map((each) => store.put(each)));
    const loaded = await Promise.all(records.map(({ meta }) => store.loadKv(meta, meta.digest)));
    for (const [i, kv] of loaded.entries()) t.ok(kv !== null && Buffer.compare(kv, records[i]!.kv) === 0);
  },
);

t.test(
  "cut in the middle of a PUT: the old version stays whole, and what was written of the new one expires",
  { timeout: 60_000 },
  async (t) => {
    const { redis, proxy, open } = await setUp(t);
    const store = await open();
    const old = await record(key, 1, BIG);
    await store.put(old);
    const chunks = async (): Promise<string[]> => (await redis.command("KEYS", "*:chunk:*")) as string[];
    const ofTheOld = new Set(await chunks());
    for (const [i, bytes] of [1, 300_000, 700_000, 1_000_000].entries()) {
      proxy.cutAfter.up = bytes;
      await t.rejects(store.put(await record(key, 2 + i, BIG)), unavailable, `after ${bytes} bytes`);
      await eventually(() => store.ping().then(() => true));
      t.same(await store.head(key), old.meta);
      t.ok(Buffer.compare((await store.loadKv(key, old.meta.digest))!, old.kv) === 0);
    }
    const orphans = (await chunks()).filter((chunk) => !ofTheOld.has(chunk));
    const ttls = await Promise.all(orphans.map(async (chunk) => Number(await redis.command("PTTL", chunk))));
    t.ok(orphans.length > 0, `${orphans.length} chunks are left over`);
    t.ok(
      ttls.every((ttl) => ttl > 0 && ttl <= UPLOAD_TTL_MS),
      "all of which expire",
    );
    await store.deleteUser("ann");
    t.same(await chunks(), [], "or go with their user");
  },
);

t.test("cut in the middle of an answer: an error, then the whole prefix", { timeout: 60_000 }, async (t) => {
  const { proxy, open } = await setUp(t);
  const store = await open();
  const put = await record(key, 1, BIG);
  await store.put(put);
  proxy.cutAfter.down = 200_000;
  await t.rejects(store.loadKv(key, put.meta.digest), unavailable);
  await eventually(() => store.ping().then(() => true));
  t.ok(Buffer.compare((await store.loadKv(key, put.meta.digest))!, put.kv) === 0);
});

t.test(
  "accepting and silent: time limits hold, from the start and later, and it is found again",
  { timeout: 60_000 },
  async (t) => {
    const { proxy, url, open } = await setUp(t);
    proxy.silent = true;
    const store = await open();
    await t.rejects(store.ping(), unavailable, "opened without an answer");
    proxy.silent = false;
    await eventually(() => store.ping().then(() => true));
    let lapses = 0;
    const bus = await openRedisReplicaBus({
      url,
      commandTimeoutMs: 500,
      leaseMs: 1500,
      handler: async () => ({ running: 0, queued: 0 }),
      onLapse: () => lapses++,
    });
    t.teardown(() => bus.close());
    t.ok(bus.mayServe());
    proxy.silent = true;
    await t.rejects(store.head(key), unavailable);
    await t.rejects(
      Promise.all(Array.from({ length: 1000 }, () => store.head(key))),
      unavailable,
      "afterwards at once, without waiting each",
    );
    await eventually(async () => !bus.mayServe());
    // A timer tells it, which may come later than the clock.
    await eventually(async () => lapses > 0);
    t.equal(lapses, 1);
    proxy.silent = false;
    await eventually(async () => bus.mayServe());
    await eventually(() => store.ping().then(() => true));
  },
);
