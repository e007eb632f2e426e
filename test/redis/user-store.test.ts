import t from "tap";
import { openRedisUserStore } from "../../src/redis/user-store.ts";
import { contractOnRedis } from "../contract/on-redis.ts";
import { apiKey, usageRow, user, userStoreContract } from "../contract/user-store.ts";
import { until } from "../support/app.ts";
import { eventually } from "../support/fault-client.ts";
import { startRedis } from "../support/redis.ts";
import type { UsageRow } from "../../src/users/types.ts";
import { toCounts, usageRowName } from "../../src/users/usage-counts.ts";
import { skipFileWithout } from "../support/requirements.ts";

skipFileWithout(t, "redis-server");

contractOnRedis(userStoreContract, openRedisUserStore);

t.test("changes by others are heard, and a removed user leaves no Redis key but the hash of the id", async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  const [one, two] = [await openRedisUserStore({ url: redis.url }), await openRedisUserStore({ url: redis.url })];
  t.teardown(() => Promise.all([one.close(), two.close()]).then(() => {}));
  const heard: string[] = [];
  two.onChange((id) => heard.push(id));
  await redis.command("PUBLISH", "prefixd:user-changes", "nonsense");
  await one.createUser(user("ann"));
  await one.putKey(apiKey("ann"));
  await one.addUsage([usageRow("ann", "p", "2026-01-01")]);
  await one.deleteUser("ann", { keepUsage: false });
  await until(() => heard.length === 3);
  t.same(heard, ["ann", "ann", "ann"]);
  t.same(await redis.command("KEYS", "*"), ["prefixd:deletions"]);
});

t.test("usage from before rows were listed is listed, and so is what such a version adds", async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  const store = await openRedisUserStore({ url: redis.url });
  t.teardown(() => store.close());
  const addAsBefore = async (row: UsageRow): Promise<void> => {
    for (const [i, count] of toCounts(row).entries())
      await redis.command("HINCRBY", "prefixd:{ann}:usage", `${usageRowName(row)} ${i}`, String(count));
  };
  await store.createUser(user("ann"));
  const before = [usageRow("ann", null, "2026-01-01"), usageRow("ann", "a b/c 1", "2026-01-01", 2)];
  for (const row of before) await addAsBefore(row);
  const added = usageRow("ann", "p", "2026-01-02", 4);
  await store.addUsage([added]);
  t.match(await store.usageSums("ann", {}), { requests: 7, promptTokens: 21, queueSeconds: 3.5 });
  t.match(await store.usageSums("ann", { to: "2026-01-01" }), { requests: 3 });
  t.same(await store.usage("ann", { limit: 9 }), [...before, added]);
  const later = usageRow("ann", "p", "2026-01-03", 8);
  await addAsBefore(later);
  t.same(await store.usage("ann", { limit: 9 }), [...before, added, later]);
  t.match(await store.usageSums("ann", {}), { requests: 15 });
  t.same(await store.deleteUser("ann", { keepUsage: false }), { keys: 0, usageRows: 4 });
  t.same(await redis.command("KEYS", "*"), ["prefixd:deletions"]);
});

t.test(
  "usage that Redis has taken without an answer is counted once; what it has not taken is counted later",
  async (t) => {
    const redis = await startRedis();
    t.teardown(() => redis.stop());
    const store = await openRedisUserStore({ url: redis.url, commandTimeoutMs: 200 });
    t.teardown(() => store.close());
    const row = (n: number) => usageRow("admin", "p", "2026-01-01", n);
    const reader = await openRedisUserStore({ url: redis.url });
    t.teardown(() => reader.close());
    const counted = async (): Promise<number> => (await reader.usage("admin", { limit: 9 }))[0]?.requests ?? 0;
    await store.addUsage([row(1)]);
    redis.signal("SIGSTOP");
    await store.addUsage([row(10)]);
    await t.rejects(
      store.addUsage([row(100)]),
      { code: "store_unavailable" },
      "with something unanswered nothing new is taken",
    );
    redis.signal("SIGCONT");
    await eventually(() => store.addUsage([row(1000)]).then(() => true));
    await eventually(async () => (await counted()) >= 1011);
    t.equal(await counted(), 1011);
  },
);

t.test("usage that Redis refuses is counted when it takes writes again, with what came since", async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  const store = await openRedisUserStore({ url: redis.url });
  t.teardown(() => store.close());
  const add = (n: number): Promise<void> => store.addUsage([usageRow("admin", "p", "2026-01-01", n)]);
  const counted = async (): Promise<number> => (await store.usage("admin", { limit: 9 }))[0]?.requests ?? 0;
  await add(1);
  await redis.command("REPLICAOF", "127.0.0.1", "1");
  await add(10);
  await add(100);
  t.equal(await counted(), 1);
  await redis.command("REPLICAOF", "NO", "ONE");
  await add(1000);
  t.equal(await counted(), 1111);
});
