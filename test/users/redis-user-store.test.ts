import t from "tap";
import { openRedisUserStore } from "../../src/users/redis-user-store.ts";
import { apiKey, usageRow, user, userStoreContract } from "../contract/user-store.ts";
import { hasRedis, startRedis, startRedisCluster } from "../support/redis.ts";
import { until } from "../support/app.ts";

if (!hasRedis()) t.bailout("redis-server is needed for the tests");

let namespaces = 0;

t.test("Redis keeps the contract", async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  await t.test("contract", (t) => {
    userStoreContract(t, async () => {
      const namespace = `t${namespaces++}`;
      return () => openRedisUserStore({ url: redis.url, namespace });
    });
    t.end();
  });

  await t.test("changes by others are heard, and a removed user leaves no Redis key", async (t) => {
    const namespace = `t${namespaces++}`;
    const [one, two] = [await openRedisUserStore({ url: redis.url, namespace }), await openRedisUserStore({ url: redis.url, namespace })];
    t.teardown(() => Promise.all([one.close(), two.close()]).then(() => {}));
    const heard: string[] = [];
    two.onChange((id) => heard.push(id));
    await redis.command("PUBLISH", `${namespace}:user-changes`, "nonsense");
    await one.createUser(user("ann"));
    await one.putKey(apiKey("ann"));
    await one.addUsage([usageRow("ann", "p", "2026-01-01")]);
    await one.deleteUser("ann", { keepUsage: false });
    await until(() => heard.length === 3);
    t.same(heard, ["ann", "ann", "ann"]);
    t.same(await redis.command("KEYS", `${namespace}:*`), []);
  });
});

t.test("a Redis Cluster of two nodes keeps the contract", async (t) => {
  const cluster = await startRedisCluster();
  t.teardown(() => cluster.stop());
  await t.test("contract", (t) => {
    userStoreContract(t, async () => {
      const namespace = `t${namespaces++}`;
      return () => openRedisUserStore({ url: cluster.url, namespace });
    });
    t.end();
  });
});
