import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { createPrefixCache } from "../../src/prefixes/cache.ts";
import type { PrefixCacheOptions } from "../../src/prefixes/cache.ts";
import type { PrefixKey } from "../../src/prefixes/store.ts";
import { record, SHAPE } from "./records.ts";
import { ScriptedStore } from "./scripted-store.ts";

/** Bytes of one virtual token: 2 layers, key and value, 2 heads of 4 fp32 values. */
const TOKEN = 2 * 2 * 2 * 4 * 4;
const key = { user: "ann", name: "poem" };
const accept = (): void => {};

function setUp(options: Partial<PrefixCacheOptions> = {}) {
  const store = new ScriptedStore();
  const clock = { ms: 0 };
  const cache = createPrefixCache({ store, shape: SHAPE, maxBytes: 10 * TOKEN, now: () => clock.ms, ...options });
  const put = async (at: PrefixKey, seed: number, length = 1): Promise<string> => {
    const made = await record(at, seed, { length });
    await store.put(made);
    return made.meta.digest;
  };
  return { store, clock, cache, put };
}

t.test("loads once, then serves from memory", async (t) => {
  const { store, cache, put } = setUp();
  const digest = await put(key, 1);
  const first = await cache.resolve(key, accept);
  t.equal(first.meta.digest, digest);
  t.same(new Uint8Array(first.kv.data.buffer), (await record(key, 1, { length: 1 })).kv);
  t.equal((await cache.resolve(key, accept)).kv, first.kv);
  t.equal(store.heads, 1);
  t.equal(store.loads, 1);
  t.match(cache.stats(), { hits: 1, misses: 1, bytes: TOKEN, loadingBytes: 0, entries: 1, evictions: 0, stale: 0 });
});

t.test("a prefix is held under the names that it was served under, and being asked about is no use", async (t) => {
  const { cache, put } = setUp({ maxBytes: 2 * TOKEN });
  const other = { user: "bob", name: "poem" };
  const digest = await put(key, 1);
  await put(other, 1);
  t.notOk(cache.holdsPrefix(key, digest), "not used yet");
  await cache.resolve(key, accept);
  t.ok(cache.holdsPrefix(key, digest));
  t.notOk(cache.holdsPrefix(other, digest), "that ann uses it is not bob's business");
  t.notOk(cache.holdsPrefix(key, "0".repeat(64)), "another version");
  for (const seed of [2, 3]) {
    await put({ user: "bob", name: `p${seed}` }, seed);
    await cache.resolve({ user: "bob", name: `p${seed}` }, accept);
    t.equal(cache.holdsPrefix(key, digest), seed === 2, "the least used goes first, asked about or not");
  }
});

t.test("many at once ask and load once", async (t) => {
  const { store, cache, put } = setUp();
  await put(key, 1);
  store.delay = () => sleep(5);
  const all = await Promise.all(Array.from({ length: 50 }, () => cache.resolve(key, accept)));
  t.equal(store.heads, 1);
  t.equal(store.loads, 1);
  t.ok(all.every(({ kv }) => kv === all[0]!.kv));
  t.match(cache.stats(), { hits: 49, misses: 1 });
});

t.test(
  "the same tensors under two names take their room once, and one's removal does not break the other",
  async (t) => {
    const { store, cache, put } = setUp();
    const other = { user: "bob", name: "poem" };
    await put(key, 1);
    await put(other, 1);
    store.delay = () => sleep(5);
    const both = Promise.allSettled([cache.resolve(key, accept), cache.resolve(other, accept)]);
    await sleep(7);
    store.records.delete("ann/poem");
    const [mine, theirs] = await both;
    t.match(mine, { status: "rejected", reason: { code: "prefix_not_found" } });
    t.equal(theirs.status, "fulfilled");
    t.match(cache.stats(), { entries: 1, bytes: TOKEN });
  },
);

t.test("a change is seen at once when heard of, and within verifyMs when not", async (t) => {
  const { store, clock, cache, put } = setUp({ verifyMs: 1000 });
  await put(key, 1);
  await cache.resolve(key, accept);
  const second = await put(key, 2);
  t.not((await cache.resolve(key, accept)).meta.digest, second, "not heard of yet");
  clock.ms = 999;
  t.not((await cache.resolve(key, accept)).meta.digest, second);
  clock.ms = 1000;
  t.equal((await cache.resolve(key, accept)).meta.digest, second, "the bound");
  const third = await put(key, 3);
  for (const listener of store.listeners) listener(key);
  t.equal((await cache.resolve(key, accept)).meta.digest, third, "heard of");
  store.records.clear();
  cache.invalidateUser("an");
  t.equal((await cache.resolve(key, accept)).meta.digest, third, "another user's invalidation");
  cache.invalidateUser("ann");
  await t.rejects(cache.resolve(key, accept), { code: "prefix_not_found" });
  cache.close();
  t.equal(store.listeners.size, 0);
});

t.test("an answer from before a change is not believed after it", async (t) => {
  const { store, cache, put } = setUp();
  await put(key, 1);
  let release = (): void => {};
  store.delay = () => new Promise((resolve) => (release = resolve));
  const before = cache.resolve(key, accept);
  await sleep(1);
  const second = await put(key, 2);
  cache.invalidate(key);
  const slow = release;
  store.delay = () => Promise.resolve();
  t.equal((await cache.resolve(key, accept)).meta.digest, second, "does not join the old question");
  slow();
  await before.catch(() => {});
  t.equal((await cache.resolve(key, accept)).meta.digest, second, "nor is its answer kept");
});

t.test("the time that counts is that of the question", async (t) => {
  const { store, clock, cache, put } = setUp({ verifyMs: 1000 });
  await put(key, 1);
  store.delay = async () => void (clock.ms += 600);
  await cache.resolve(key, accept);
  store.delay = () => Promise.resolve();
  const second = await put(key, 2);
  clock.ms = 1000;
  t.equal((await cache.resolve(key, accept)).meta.digest, second);
});

t.test("while the store is away: cached for staleMs, then 503, then back by itself", async (t) => {
  const { store, clock, cache, put } = setUp({ verifyMs: 1000, staleMs: 10_000 });
  await put(key, 1);
  const unseen = { user: "ann", name: "unseen" };
  await put(unseen, 2);
  await cache.resolve(key, accept);
  store.away = true;
  for (clock.ms = 500; clock.ms < 10_000; clock.ms += 500) t.ok(await cache.resolve(key, accept), `${clock.ms} ms`);
  t.equal(cache.stats().stale, 18);
  t.ok(store.heads < 14, `one request a second finds out that it is still away (${store.heads})`);
  await t.rejects(cache.resolve(key, accept), { code: "store_unavailable", status: 503, retryAfter: 2 });
  await t.rejects(cache.resolve(unseen, accept), { code: "store_unavailable" }, "never verified");
  store.away = false;
  t.ok(await cache.resolve(key, accept));
  t.ok(await cache.resolve(unseen, accept));
});

t.test("a removal heard of just before the store went away holds", async (t) => {
  const { store, cache, put } = setUp();
  await put(key, 1);
  await cache.resolve(key, accept);
  for (const listener of store.listeners) listener(key);
  store.away = true;
  await t.rejects(cache.resolve(key, accept), { code: "store_unavailable" });
});

t.test("a name verified but not in memory needs the store, and costs the others nothing", async (t) => {
  const { store, clock, cache, put } = setUp({ maxBytes: TOKEN });
  const other = { user: "ann", name: "other" };
  await put(key, 1);
  await put(other, 2);
  await cache.resolve(key, accept);
  await cache.resolve(other, accept);
  store.away = true;
  clock.ms = 1000;
  for (let i = 0; i < 3; i++) await t.rejects(cache.resolve(key, accept), { code: "store_unavailable" });
  t.ok(await cache.resolve(other, accept));
  t.match(cache.stats(), { evictions: 1, entries: 1 });
});

t.test("refused metadata load nothing", async (t) => {
  const { store, cache, put } = setUp();
  await put(key, 1);
  const refuse = (): void => {
    throw new Error("no");
  };
  await t.rejects(cache.resolve(key, refuse), { message: "no" });
  t.equal(store.loads, 0);
});

t.test("damaged bytes are an error, never a prefix", async (t) => {
  const { store, cache, put } = setUp();
  await put(key, 1);
  const { meta, kv } = store.records.get("ann/poem")!;
  for (const broken of [kv.slice(0, -4), Uint8Array.from(kv, (byte, i) => (i === 9 ? byte ^ 1 : byte))]) {
    store.records.set("ann/poem", { ...store.records.get("ann/poem")!, meta, kv: broken });
    await t.rejects(cache.resolve(key, accept), { code: "prefix_damaged", status: 500 });
  }
  t.match(cache.stats(), { entries: 0, loadingBytes: 0 });
});

t.test("a prefix larger than the bound is served, not kept", async (t) => {
  const { cache, put } = setUp({ maxBytes: 2 * TOKEN });
  const big = { user: "ann", name: "big" };
  await put(key, 1);
  await put(big, 2, 3);
  await cache.resolve(key, accept);
  t.equal((await cache.resolve(big, accept)).kv.length, 3);
  t.match(cache.stats(), { entries: 1, bytes: TOKEN, evictions: 0 }, "and pushes nobody out");
  const none = setUp({ maxBytes: 0 });
  await none.put(key, 1);
  t.equal((await none.cache.resolve(key, accept)).kv.length, 1);
  t.match(none.cache.stats(), { entries: 0, bytes: 0 });
});

t.test("the bound holds under any load, loads under way included, and the least used goes first", async (t) => {
  const maxBytes = 20 * TOKEN;
  const { store, cache, put } = setUp({ maxBytes, verifyMs: 0 });
  const names = Array.from({ length: 60 }, (_, i) => ({ user: "ann", name: `p${i}` }));
  for (const [i, name] of names.entries()) await put(name, i, 1 + (i % 25));
  store.delay = () => sleep(Math.random() * 3);
  let most = 0;
  let wrong = 0;
  const check = (): void => {
    const { bytes, loadingBytes } = cache.stats();
    most = Math.max(most, bytes + loadingBytes);
  };
  await Promise.all(
    Array.from({ length: 24 }, async () => {
      for (let i = 0; i < 40; i++) {
        const n = Math.floor(Math.random() * names.length);
        const { kv } = await cache.resolve(names[n]!, accept);
        if (kv.length !== 1 + (n % 25) || kv.data[1] !== Math.fround(Math.sin(n * 31 + 1))) wrong++;
        if (Math.random() < 0.1) await put(names[n]!, n, kv.length);
        check();
      }
    }),
  );
  t.equal(wrong, 0);
  t.ok(most <= maxBytes, `at most ${most} of ${maxBytes} bytes`);
  t.ok(most > maxBytes / 2);
  t.equal(cache.stats().loadingBytes, 0);
  store.delay = () => Promise.resolve();
  const small = setUp({ maxBytes: 2 * TOKEN });
  const [a, b, c] = ["a", "b", "c"].map((name) => ({ user: "ann", name })) as [PrefixKey, PrefixKey, PrefixKey];
  for (const [i, name] of [a, b, c].entries()) await small.put(name, i);
  for (const name of [a, b, a, c, a]) await small.cache.resolve(name, accept);
  t.equal(small.store.loads, 3, "a was used after b, so b made room");
});

t.test("a failed load frees its room", async (t) => {
  const { store, cache, put } = setUp({ maxBytes: TOKEN });
  await put(key, 1);
  let calls = 0;
  store.delay = () => (++calls === 2 ? Promise.reject(new Error("torn")) : Promise.resolve());
  await t.rejects(cache.resolve(key, accept), { message: "torn" });
  t.ok(await cache.resolve(key, accept));
});
