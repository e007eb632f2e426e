/** Who is told of a removal, whatever happens to Redis meanwhile: two replicas in one process on a real Redis. */
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { openRedisReplicaBus } from "../../src/redis/replica-bus.ts";
import * as scripts from "../../src/redis/replica-keys.ts";
import type { ReplicaBus, ReplicaCommand } from "../../src/replicas/replica-bus.ts";
import { startRedis, startRedisWith, type TestRedis } from "../support/redis.ts";
import { lacking } from "../support/requirements.ts";

const LEASE_MS = 1500;
const REMOVAL: ReplicaCommand = { kind: "user", user: "ann" };

interface Replica {
  readonly bus: ReplicaBus;
  /** What it was told. */
  readonly told: ReplicaCommand[];
}

async function open(t: Test, redis: TestRedis): Promise<Replica> {
  const told: ReplicaCommand[] = [];
  const handler = async (command: ReplicaCommand): Promise<{ running: number; queued: number }> => {
    told.push(command);
    return { running: 1, queued: 0 };
  };
  const bus = await openRedisReplicaBus({ url: redis.url, leaseMs: LEASE_MS, handler, onLapse: () => undefined });
  t.teardown(() => bus.close());
  return { bus, told };
}

async function pair(t: Test, redis: TestRedis): Promise<[Replica, Replica]> {
  t.teardown(() => redis.stop());
  const [a, b] = [await open(t, redis), await open(t, redis)];
  await everybodySeen(redis, a, b);
  return [a, b];
}

/** Both have renewed their leases after both were there. */
async function everybodySeen(redis: TestRedis, ...replicas: Replica[]): Promise<void> {
  const beats = async (): Promise<string> =>
    JSON.stringify(await redis.command("HMGET", "prefixd:{replicas}:beats", ...replicas.map(({ bus }) => bus.id)));
  const before = JSON.parse(await beats()) as string[];
  while ((JSON.parse(await beats()) as string[]).some((beat, i) => beat === before[i])) await sleep(10);
  // The answer to the renewal.
  await sleep(50);
}

const ids = (replicas: readonly { id: string }[]): string[] => replicas.map(({ id }) => id).sort();

t.test(
  "a replica that Redis has just forgotten is told of a removal, and waited for",
  { skip: lacking("redis-server") },
  async (t) => {
    const redis = await startRedis();
    const [a, b] = await pair(t, redis);
    await redis.command("FLUSHALL");
    const { replicas, running } = await a.bus.broadcast(REMOVAL);
    t.same(ids(replicas), [a.bus.id, b.bus.id].sort());
    t.ok(replicas.every(({ acknowledgedAt }) => acknowledgedAt !== null));
    t.equal(running, 2);
    t.same([a.told, b.told], [[REMOVAL], [REMOVAL]]);
  },
);

t.test(
  "a replica that has left in order is in no receipt, and nothing of it stays",
  { skip: lacking("redis-server") },
  async (t) => {
    const redis = await startRedis();
    const [a, b] = await pair(t, redis);
    await b.bus.close();
    t.same(ids((await a.bus.broadcast(REMOVAL)).replicas), [a.bus.id]);
    while (Number(await redis.command("HLEN", "prefixd:{replicas}:beats")) > 1) await sleep(20);
    t.same(await redis.command("KEYS", "*"), ["prefixd:{replicas}:beats"]);
  },
);

t.test(
  "a replica whose process is gone is struck off by the others, together with its inbox",
  { skip: lacking("redis-server") },
  async (t) => {
    const redis = await startRedis();
    const [a] = await pair(t, redis);
    // As of one that was killed with a command in its inbox.
    await redis.command("HSET", "prefixd:{replicas}:beats", "dead", "12");
    await redis.command("HSET", "prefixd:{replicas}:inbox:dead", "1", JSON.stringify(REMOVAL));
    const { replicas } = await a.bus.broadcast(REMOVAL);
    t.equal(
      replicas.find(({ id }) => id === "dead")?.acknowledgedAt,
      null,
      "waited for until it cannot serve any more",
    );
    while (Number(await redis.command("EXISTS", "prefixd:{replicas}:inbox:dead")) > 0) await sleep(20);
    t.same(((await redis.command("HKEYS", "prefixd:{replicas}:beats")) as string[]).length, 2);
  },
);

t.test("Redis' clock may be set to any time", { skip: lacking("redis-server", "cc") }, async (t) => {
  const library = join(t.testdir(), "step-clock.so");
  t.equal(
    spawnSync("cc", ["-shared", "-fPIC", "-o", library, join(import.meta.dirname, "../support/step-clock.c")]).status,
    0,
  );
  const file = join(t.testdirName, "seconds");
  for (const seconds of ["12", "3600", "-3600"]) {
    await t.test(`by ${seconds} s`, async (t) => {
      writeFileSync(file, "0");
      const redis = await startRedisWith({ LD_PRELOAD: library, STEP_CLOCK: file });
      const [a, b] = await pair(t, redis);
      const time = async (): Promise<number> => Number(((await redis.command("TIME")) as string[])[0]);
      const before = await time();
      writeFileSync(file, seconds);
      t.ok(Math.abs((await time()) - before) > 10, "Redis' clock has been set");
      const { replicas } = await a.bus.broadcast(REMOVAL);
      t.same(ids(replicas), [a.bus.id, b.bus.id].sort());
      t.ok(replicas.every(({ acknowledgedAt }) => acknowledgedAt !== null));
      t.same([a.told, b.told], [[REMOVAL], [REMOVAL]]);
    });
  }
});

t.test("no script of the replicas asks Redis for the time", async (t) => {
  const all = Object.values(scripts).filter((value) => "lua" in value);
  t.ok(all.length >= 7);
  for (const { lua } of all) t.notMatch(lua, /'TIME'|EXPIREAT|PTTL|ZADD/);
});
