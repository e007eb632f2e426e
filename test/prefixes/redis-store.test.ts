import t from "tap";
import { openRedisStore } from "../../src/prefixes/redis-store.ts";
import { prefixStoreContract } from "../contract/prefix-store.ts";
import { hasRedis, startRedis, startRedisCluster } from "../support/redis.ts";

if (!hasRedis()) t.bailout("redis-server is needed for the tests");

let namespaces = 0;

t.test("Redis keeps the contract", async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  await t.test("contract", (t) => {
    prefixStoreContract(t, async () => {
      const namespace = `t${namespaces++}`;
      return () => openRedisStore({ url: redis.url, namespace });
    });
    t.end();
  });
});

t.test("a Redis Cluster of two nodes keeps the contract", async (t) => {
  const cluster = await startRedisCluster();
  t.teardown(() => cluster.stop());
  await t.test("contract", (t) => {
    prefixStoreContract(t, async () => {
      const namespace = `t${namespaces++}`;
      return () => openRedisStore({ url: cluster.url, namespace });
    });
    t.end();
  });
});
