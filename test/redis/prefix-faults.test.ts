import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import type { Test } from "tap";
import { createPrefixCache } from "../../src/prefixes/cache.ts";
import { openRedisStore } from "../../src/redis/prefix-store.ts";
import type { PrefixKey, PrefixStore } from "../../src/prefixes/store.ts";
import { startRedis } from "../support/redis.ts";
import type { TestRedis } from "../support/redis.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { record, SHAPE } from "../prefixes/records.ts";

skipFileWithout(t, "redis-server");

const key = { user: "ann", name: "poem" };
const BIG = { ...SHAPE, layers: 16, heads: 16, headDim: 16 };
const away = { code: "store_unavailable", status: 503, retryAfter: 2 };
const PERSISTENT = ["--appendonly", "yes", "--appendfsync", "always"];

async function setUp(
  t: Test,
  ...args: string[]
): Promise<{ redis: TestRedis; errors: Error[]; open: (timeoutMs?: number) => Promise<PrefixStore> }> {
  const redis = await startRedis(...args);
  t.teardown(() => redis.stop());
  const errors: Error[] = [];
  const open = async (commandTimeoutMs = 300): Promise<PrefixStore> => {
    const store = await openRedisStore({
      url: redis.url,
      commandTimeoutMs,
      graceMs: 500,
      chunkBytes: 64 * 1024,
      onError: (error) => errors.push(error),
    });
    t.teardown(() => store.close());
    return store;
  };
  return { redis, errors, open };
}

async function until(t: Test, what: string, check: () => Promise<unknown>): Promise<void> {
  const started = performance.now();
  while (performance.now() - started < 8000) {
    if ((await check().catch(() => null)) !== null) {
      t.pass(`${what} after ${Math.round(performance.now() - started)} ms`);
      return;
    }
    await sleep(25);
  }
  t.fail(`${what}: not in 8 s`);
}

t.test("killed and started again: fails fast, comes back by itself, subscriptions too", async (t) => {
  const { redis, errors, open } = await setUp(t, ...PERSISTENT);
  const [store, other] = [await open(), await open()];
  const heard: PrefixKey[] = [];
  store.onChange((changed) => heard.push(changed));
  const put = await record(key, 1);
  await store.put(put);
  await redis.kill();
  for (const call of [
    () => store.head(key),
    () => store.put(put),
    () => store.list("ann", { limit: 1 }),
    () => store.delete(key),
    () => store.ping(),
  ]) {
    const started = performance.now();
    await t.rejects(call() as Promise<void>, away);
    t.ok(performance.now() - started < 1000, "fails fast");
  }
  await until(t, "reported", async () => errors[0] ?? null);
  await redis.start();
  await until(t, "back", () => store.head(key));
  t.same(await store.head(key), put.meta);
  await until(t, "the other is back", () => other.head(key));
  await until(t, "messages again", async () => {
    await other.put(put);
    await sleep(20);
    return heard.length > 0 ? true : null;
  });
  t.same(heard[0], key);
});

t.test("not there at the start", async (t) => {
  const { redis, open } = await setUp(t);
  await redis.kill();
  const store = await open();
  await t.rejects(store.head(key), away);
  await redis.start();
  await until(t, "connected", () => store.ping().then(() => true));
});

t.test("hung: times out, and goes on when it wakes", async (t) => {
  const { redis, open } = await setUp(t);
  const store = await open();
  const put = await record(key, 1, { shape: BIG, length: 31 });
  await store.put(put);
  redis.signal("SIGSTOP");
  const started = performance.now();
  await t.rejects(store.head(key), away);
  await t.rejects(store.put(await record(key, 2)), away);
  t.ok(performance.now() - started < 3000, `${Math.round(performance.now() - started)} ms`);
  await sleep(800);
  redis.signal("SIGCONT");
  // What was sent may still arrive, and keys and values come over another connection.
  await until(t, "back and whole, whichever it is", async () => {
    const meta = await store.head(key);
    return meta && (await store.loadKv(key, meta.digest));
  });
});

t.test("a cache goes on serving through an outage, within its bound", async (t) => {
  const { redis, open } = await setUp(t, ...PERSISTENT);
  const store = await open();
  await store.put(await record(key, 1));
  const cache = createPrefixCache({ store, shape: SHAPE, maxBytes: 1 << 20, verifyMs: 20, staleMs: 1500 });
  await cache.resolve(key, () => {});
  await redis.kill();
  await sleep(50);
  t.ok(await cache.resolve(key, () => {}));
  await sleep(1500);
  await t.rejects(
    cache.resolve(key, () => {}),
    away,
  );
  await redis.start();
  await until(t, "served again", () => cache.resolve(key, () => {}));
});

t.test("a change by another replica is heard", async (t) => {
  const { open } = await setUp(t);
  const [one, two] = [await open(), await open()];
  const heard: PrefixKey[] = [];
  const end = one.onChange((changed) => heard.push(changed));
  await one.put(await record(key, 1));
  await two.put(await record(key, 2));
  await two.delete(key);
  await two.put(await record({ user: "a}b", name: "x" }, 1));
  await two.deleteUser("a}b");
  await sleep(50);
  t.same(heard, [key, key, { user: "a}b", name: "x" }, { user: "a}b", name: "x" }], "one's own are not told");
  end();
  await two.put(await record(key, 2));
  await sleep(50);
  t.equal(heard.length, 4);
});

t.test("no memory left: full, nothing left over, the rest usable", async (t) => {
  const { redis, open } = await setUp(t, "--maxmemory", "6mb", "--maxmemory-policy", "noeviction");
  const store = await open(2000);
  let stored = 0;
  let error: unknown;
  while (stored < 20 && error === undefined) {
    const put = await record({ user: "ann", name: `p${stored}` }, stored, { shape: BIG, length: 31 });
    error = await store.put(put).then(
      () => void stored++,
      (error: unknown) => error,
    );
  }
  t.match(error, { code: "store_full", status: 507 });
  t.ok(stored > 0, `${stored} stored`);
  t.equal((await store.list("ann", { limit: 100 })).length, stored);
  const chunks = ((await redis.command("KEYS", "*:chunk:*")) as string[]).length;
  t.equal(chunks, stored * (16 + 2), "no chunks of the one that failed");
  const before = (await store.head({ user: "ann", name: "p0" }))!;
  await t.rejects(store.put(await record(before, 77, { shape: BIG, length: 31 })), { code: "store_full" });
  t.same(await store.head(before), before, "a refused replacement leaves the old one");
  t.ok(await store.loadKv(before, before.digest));
  t.equal(await store.delete(before), true, "deleting works when full");
  t.match(await store.put(await record(before, 78)), { created: true });
});

t.test("nothing is left of a deleted prefix, nor of a replaced version after the grace period", async (t) => {
  const { redis, open } = await setUp(t);
  const store = await open();
  for (let i = 0; i < 4; i++) await store.put(await record(key, i, { shape: BIG, length: 31 }));
  t.ok(((await redis.command("KEYS", "*:chunk:*")) as string[]).length > 18, "old versions wait for their readers");
  await sleep(700);
  t.equal(((await redis.command("KEYS", "*:chunk:*")) as string[]).length, 18);
  await store.put(await record(key, 9));
  await store.delete(key);
  t.same(await redis.command("KEYS", "*:chunk:*"), []);
  await store.put(await record(key, 1));
  await store.put(await record(key, 2));
  await store.deleteUser("ann");
  t.same(await redis.command("KEYS", "prefixd:{*"), ["prefixd:{ann}:removed"]);
});

t.test("chunks lost to eviction are an error, and another PUT heals it", async (t) => {
  const { redis, open } = await setUp(t);
  const store = await open();
  const put = await record(key, 1);
  await store.put(put);
  for (const chunk of (await redis.command("KEYS", "*:chunk:*")) as string[]) await redis.command("DEL", chunk);
  await t.rejects(store.loadKv(key, put.meta.digest), { code: "prefix_damaged" });
  await store.put(put);
  t.ok(await store.loadKv(key, put.meta.digest));
});

t.test("an upload whose chunks expire before its commit is not committed", async (t) => {
  const { redis, open } = await setUp(t);
  const store = await open();
  const old = await record(key, 1);
  await store.put(old);
  const slow = await openRedisStore({ url: redis.url, uploadTtlMs: 1, chunkBytes: 4096 });
  t.teardown(() => slow.close());
  await t.rejects(slow.put(await record(key, 2, { shape: BIG, length: 31 })), {
    code: "store_unavailable",
    retryAfter: 1,
  });
  t.same(await store.head(key), old.meta);
});
