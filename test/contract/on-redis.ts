import t, { type Test } from "tap";
import { startRedis, startRedisCluster } from "../support/redis.ts";

type Open<S> = (at: { url: string; namespace: string }) => Promise<S>;

/**
 * Runs a store's contract on a Redis and on a Redis Cluster of two nodes, each test in its own namespace. Only for
 * machines with Redis.
 */
export function contractOnRedis<S>(
  contract: (t: Test, make: (t: Test) => Promise<() => Promise<S>>) => void,
  open: Open<S>,
): void {
  let namespaces = 0;
  for (const [what, start] of [
    ["Redis", () => startRedis()],
    ["a Redis Cluster of two nodes", startRedisCluster],
  ] as const) {
    void t.test(`${what} keeps the contract`, async (t) => {
      const redis = await start();
      t.teardown(() => redis.stop());
      await t.test("contract", (t) => {
        contract(t, async () => {
          const namespace = `t${namespaces++}`;
          return () => open({ url: redis.url, namespace });
        });
        t.end();
      });
    });
  }
}
