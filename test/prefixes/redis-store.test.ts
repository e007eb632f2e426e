import { Redis } from "ioredis";
import t from "tap";
import { openRedisStore } from "../../src/prefixes/redis-store.ts";
import { contractOnRedis } from "../contract/on-redis.ts";
import { prefixStoreContract } from "../contract/prefix-store.ts";
import { startRedis } from "../support/redis.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { record } from "./records.ts";

skipFileWithout(t, "redis-server");

contractOnRedis(prefixStoreContract, openRedisStore);

t.test("what a user holds is counted once where nobody has kept count of it", async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  const store = await openRedisStore({ url: redis.url, namespace: "kept" });
  t.teardown(() => store.close());
  const client = new Redis(redis.url);
  t.teardown(() => client.disconnect());
  const puts = await Promise.all([1, 2, 3].map((i) => record({ user: "ann", name: `p${i}` }, i, { length: i })));
  for (const put of puts) await store.put(put);
  const bytes = puts.reduce((sum, { meta }) => sum + meta.bytes, 0);
  t.equal(await client.get("kept:{ann}:bytes"), String(bytes));
  await client.del("kept:{ann}:bytes");
  t.same(await store.held("ann"), { prefixes: 3, bytes });
  await t.rejects(store.put(await record({ user: "ann", name: "p4" }, 4), undefined, { max_prefixes: null, max_prefix_bytes: bytes }), { code: "quota_exceeded" });
  await store.delete(puts[0]!.meta);
  t.equal(await client.get("kept:{ann}:bytes"), String(bytes - puts[0]!.meta.bytes));
  for (const { meta } of puts) await store.delete(meta);
  t.same(await client.keys("kept:{ann}:*"), []);
});
