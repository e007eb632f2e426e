import { Redis } from "ioredis";
import t from "tap";
import { openRedisStore } from "../../src/redis/prefix-store.ts";
import { mayRead } from "../../src/prefixes/sharing.ts";
import type { PrefixStore } from "../../src/prefixes/store.ts";
import { contractOnRedis } from "../contract/on-redis.ts";
import { prefixStoreContract } from "../contract/prefix-store.ts";
import { startRedis } from "../support/redis.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { record } from "../prefixes/records.ts";

skipFileWithout(t, "redis-server");

contractOnRedis(prefixStoreContract, openRedisStore);

t.test("a part of a file is read from the chunks that it lies in", async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  const store = await openRedisStore({ url: redis.url, chunkBytes: 100 });
  t.teardown(() => store.close());
  const bytes = Uint8Array.from({ length: 1_000 }, (_, i) => i * 7);
  const put = await record({ user: "ann", name: "poem" }, 1, { files: new Map([["file", bytes]]) });
  await store.put(put);
  for (const [from, length] of [
    [0, 1_000],
    [0, 100],
    [99, 2],
    [100, 100],
    [150, 777],
    [999, 1],
    [950, 100],
    [1_000, 5],
    [2_000, 5],
    [100, 0],
  ] as const) {
    const part = await store.loadFile(put.meta, put.meta.digest, "file", { from, length });
    t.same(Buffer.from(part!), Buffer.from(bytes.subarray(from, from + length)), `${length} from ${from}`);
  }
});

t.test("a user's totals are counted once in a store that predates them", async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  const store = await openRedisStore({ url: redis.url, namespace: "kept" });
  t.teardown(() => store.close());
  const client = new Redis(redis.url);
  t.teardown(() => client.disconnect());
  const puts = await Promise.all([1, 2, 3].map((i) => record({ user: "ann", name: `p${i}` }, i, { length: i })));
  for (const put of puts) await store.put(put);
  // An earlier version counts too.
  const next = await record({ user: "ann", name: "p3" }, 9, { length: 2 });
  await store.put(next, { keep: 1 });
  const bytes = next.meta.bytes + puts.reduce((sum, { meta }) => sum + meta.bytes, 0);
  t.equal(await client.get("kept:{ann}:bytes"), String(bytes));
  await client.del("kept:{ann}:bytes");
  t.same(await store.held("ann"), { prefixes: 3, bytes });
  await t.rejects(
    store.put(await record({ user: "ann", name: "p4" }, 4), { quota: { max_prefixes: null, max_prefix_bytes: bytes } }),
    { code: "quota_exceeded" },
  );
  t.equal(await client.exists("kept:{ann}:versions"), 1);
  await store.delete(puts[0]!.meta);
  t.equal(await client.get("kept:{ann}:bytes"), String(bytes - puts[0]!.meta.bytes));
  for (const { meta } of puts) await store.delete(meta);
  t.same(await client.keys("kept:{ann}:*"), []);
  for (const put of [puts[2]!, next]) await store.put(put, { keep: 1 });
  await store.deleteUser("ann");
  t.same(await client.keys("kept:{ann}:*"), ["kept:{ann}:removed"], "no byte of any version is left");
});

t.test("the index of shared prefixes is built once, and repaired after a crash", async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  const client = new Redis(redis.url);
  t.teardown(() => client.disconnect());
  const open = async (): Promise<PrefixStore> => {
    const store = await openRedisStore({ url: redis.url });
    t.teardown(() => store.close());
    return store;
  };
  const listed = async (store: PrefixStore, user: string): Promise<string[]> =>
    (await store.listShared(user, { limit: 9 })).map(({ user, name }) => `${user}/${name}`);
  const store = await open();
  for (const [user, name] of [
    ["ann", "p"],
    ["ann", "q"],
    ["Ünï", "p"],
  ] as const)
    await store.put(await record({ user, name }, 1));
  await store.patchMeta({ user: "ann", name: "p" }, { shared_with: ["bob"] });
  await store.patchMeta({ user: "Ünï", name: "p" }, { visibility: "shared" });
  // A prefix as it was stored before there was a list of readers: three lines.
  const value = await client.hget("prefixd:{ann}:prefixes", "q");
  await client.hset("prefixd:{ann}:prefixes", "q", `${value!.split("\n")[0]}\n\n["bob"]`);
  await client.del("prefixd:{bob}:shared", "prefixd:{%3D}:shared", "prefixd:shares-built");
  t.same(await listed(await open(), "bob"), ["Ünï/p", "ann/p", "ann/q"], "what was shared before there was an index");
  t.match(await store.head({ user: "ann", name: "q" }), { shared_with: ["bob"] });
  t.equal(mayRead((await store.head({ user: "ann", name: "q" }))!, "bob"), false, "what was shared before is for use");

  await client.zadd("prefixd:{bob}:shared", 0, "ann/gone", 0, "cat/p");
  t.same(await listed(store, "bob"), ["Ünï/p", "ann/p", "ann/q"], "entries without a record show nothing");
  t.same(await client.zrange("prefixd:{bob}:shared", "0", "-1"), ["ann/p", "ann/q"], "and are taken away");

  // As a replica leaves it that is killed between the record and the index.
  await client.zrem("prefixd:{bob}:shared", "ann/p");
  await client.hset("prefixd:{ann}:unsettled", "bob/p", "a change");
  await store.patchMeta({ user: "ann", name: "p" }, { shared_with: ["bob"] });
  t.same(await listed(store, "bob"), ["Ünï/p", "ann/p", "ann/q"], "the repeated request puts it right");
  t.equal(await client.exists("prefixd:{ann}:unsettled"), 0);
  await client.hset("prefixd:{ann}:unsettled", "bob/gone", "a change");
  await store.deleteUser("ann");
  t.same(await client.keys("*{ann}*"), ["prefixd:{ann}:removed"]);
  t.same(await client.zrange("prefixd:{bob}:shared", "0", "-1"), []);
});
