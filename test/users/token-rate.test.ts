import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import type { PrefixdError } from "../../src/errors.ts";
import { RedisConnection } from "../../src/redis/connection.ts";
import { RedisTokenBuckets } from "../../src/redis/token-rate.ts";
import { MemoryTokenBuckets, UserTokenRate } from "../../src/users/token-rate.ts";
import { tokenBucketsContract } from "../contract/token-buckets.ts";
import { startRedis } from "../support/redis.ts";
import { lacking } from "../support/requirements.ts";

t.test("in memory", async (t) => {
  let now = 0;
  tokenBucketsContract(t, () => {
    const buckets = new MemoryTokenBuckets(() => now);
    return Promise.resolve({ buckets, slack: 0, sleep: (ms) => Promise.resolve(void (now += ms)) });
  });

  t.test("drained buckets are dropped", async (t) => {
    const buckets = new MemoryTokenBuckets(() => now);
    for (let i = 0; i < 20_000; i++) {
      await buckets.admit(`user-${i}`, 600, 10);
      now += 10;
    }
    t.ok(buckets.size <= 1025, `${buckets.size} of 20,000`);
  });
});

t.test("in Redis", { skip: lacking("redis-server") }, async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  const connections: RedisConnection[] = [];
  t.teardown(() => connections.forEach((connection) => connection.close()));
  const connect = async (): Promise<RedisConnection> => {
    const connection = new RedisConnection({ url: redis.url, commandTimeoutMs: 300 });
    connections.push(connection);
    await connection.ready(2000);
    return connection;
  };
  let namespaces = 0;
  tokenBucketsContract(t, async () => ({
    buckets: new RedisTokenBuckets(await connect(), `test-${namespaces++}`),
    slack: 20,
    sleep: (ms) => sleep(ms),
  }));

  t.test("replicas share a user's bucket; it expires when it has drained", async (t) => {
    const [a, b] = [new RedisTokenBuckets(await connect()), new RedisTokenBuckets(await connect())];
    await a.charge("ann", 600, 700);
    t.match(await b.admit("ann", 600, 1), { admitted: false });
    t.same(await redis.command("KEYS", "prefixd:*"), ["prefixd:{ann}:tokens"]);
    const ttl = Number(await redis.command("PTTL", "prefixd:{ann}:tokens"));
    t.ok(ttl > 60_000 && ttl <= 71_000, `expires in ${ttl} ms`);
  });

  t.test("while Redis is away the replica counts for itself, without waiting, and comes back", async (t) => {
    const buckets = new RedisTokenBuckets(await connect());
    await buckets.charge("bob", 600, 500);
    await redis.kill();
    await buckets.charge("bob", 600, 50);
    const started = performance.now();
    t.match(await buckets.admit("bob", 600, 100), { admitted: true }, "the replica knows what went through it");
    t.match(await buckets.admit("bob", 600, 1), { admitted: false });
    t.ok(performance.now() - started < 500);
    await redis.start();
    for (let left = 100; left > 0 && (await redis.command("EXISTS", "prefixd:{bob}:tokens")) !== 1; left--) {
      await buckets.charge("bob", 600, 1);
      await sleep(50);
    }
    t.equal(await redis.command("EXISTS", "prefixd:{bob}:tokens"), 1);
  });
});

t.test("a user's rate: the limit is asked anew, the answer says when to come back", async (t) => {
  let now = 0;
  let limit: number | null = 600;
  const rate = new UserTokenRate(new MemoryTokenBuckets(() => now), () => limit);
  await rate.admit("ann", 100);
  rate.charge("ann", 549);
  const error = await rate.admit("ann", 1).then(
    () => null,
    (thrown: PrefixdError) => thrown,
  );
  t.match(error, {
    code: "token_rate_exceeded",
    status: 429,
    retryAfter: 5,
    limit: { name: "tokens", quota: 600, remaining: 0, resetSeconds: 5, windowSeconds: 60 },
  });
  now += 4_800;
  await t.rejects(rate.admit("ann", 1), { code: "token_rate_exceeded" });
  now += 200;
  await rate.admit("ann", 200);
  await t.rejects(rate.admit("ann", 1), { code: "token_rate_exceeded" });
  rate.charge("ann", -200);
  await rate.admit("ann", 1);
  limit = null;
  await rate.admit("ann", 10_000);
  limit = 0;
  await t.rejects(rate.admit("ann", 1), { code: "token_rate_exceeded", retryAfter: 60 });
});
