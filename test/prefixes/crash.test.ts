import { join } from "node:path";
import t from "tap";
import { openLmdbStore } from "../../src/lmdb/prefix-store.ts";
import { openRedisStore } from "../../src/redis/prefix-store.ts";
import { effort } from "../support/effort.ts";
import { startRedis } from "../support/redis.ts";
import { lacking } from "../support/requirements.ts";
import { crashRounds } from "./crash.ts";

const ROUNDS = effort({ short: 4, long: 8 });

t.test("LMDB: a process killed at any moment leaves whole prefixes", async (t) => {
  const dir = join(t.testdir(), "lmdb");
  await crashRounds(t, `lmdb:${dir}`, "", () => openLmdbStore({ dir }), ROUNDS);
});

t.test("Redis: a replica killed at any moment leaves whole prefixes", { skip: lacking("redis-server") }, async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  await crashRounds(t, redis.url, "crash", () => openRedisStore({ url: redis.url, namespace: "crash" }), ROUNDS);
  const keys = (await redis.command("KEYS", "crash:*:chunk:*")) as string[];
  const ttls = await Promise.all(keys.map(async (key) => Number(await redis.command("PTTL", key))));
  const lasting = ttls.filter((ttl) => ttl === -1).length;
  const store = await openRedisStore({ url: redis.url, namespace: "crash" });
  t.teardown(() => store.close());
  await store.deleteUser("ann");
  t.ok(
    lasting > 0 && ttls.every((ttl) => ttl >= -1 && ttl <= 600_000),
    `${keys.length - lasting} of ${keys.length} chunks are left-overs and expire`,
  );
  t.same(
    await redis.command("KEYS", "crash:{*"),
    ["crash:{ann}:removed"],
    "removing the user leaves nothing but word of it, left-overs included",
  );
});

t.test(
  "Redis itself killed with its replica: appendfsync always keeps what was answered",
  { skip: lacking("redis-server") },
  async (t) => {
    const redis = await startRedis("--appendonly", "yes", "--appendfsync", "always");
    t.teardown(() => redis.stop());
    const restart = async (): Promise<void> => {
      await redis.kill();
      await redis.start();
    };
    await crashRounds(
      t,
      redis.url,
      "crash",
      () => openRedisStore({ url: redis.url, namespace: "crash" }),
      effort({ short: 2, long: 4 }),
      restart,
    );
  },
);
