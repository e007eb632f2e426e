/**
 * What a process that ends between two commands leaves in Redis, and that it does not stay. The end is a command that Redis has been told to
 * refuse from some moment on: what was written before it is there, what comes after it is not.
 */
import t from "tap";
import type { Test } from "tap";
import { openRedisStore } from "../../src/redis/prefix-store.ts";
import { openRedisReplicaBus } from "../../src/redis/replica-bus.ts";
import { openRedisUserStore } from "../../src/redis/user-store.ts";
import { apiKey, user } from "../contract/user-store.ts";
import { record } from "../prefixes/records.ts";
import { eventually } from "../support/fault-client.ts";
import { startRedis, type TestRedis } from "../support/redis.ts";
import { skipFileWithout } from "../support/requirements.ts";

skipFileWithout(t, "redis-server");

const UNAVAILABLE = { code: "store_unavailable" };

async function setUp(t: Test): Promise<{ redis: TestRedis; users: Awaited<ReturnType<typeof openRedisUserStore>> }> {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  const users = await openRedisUserStore({ url: redis.url, sweepMs: 50 });
  t.teardown(() => users.close());
  return { redis, users };
}

/** Runs `work` while Redis refuses commands. */
async function without(redis: TestRedis, commands: readonly string[], work: () => Promise<void>): Promise<void> {
  await redis.command("ACL", "SETUSER", "default", ...commands.map((command) => `-${command}`));
  await work();
  await redis.command("ACL", "SETUSER", "default", ...commands.map((command) => `+${command}`));
}

/** Keys that have a text in their name or in what they hold. */
async function keysWith(redis: TestRedis, text: string): Promise<string[]> {
  const found: string[] = [];
  for (const key of (await redis.command("KEYS", "*")) as string[]) {
    const dump = JSON.stringify(await read(redis, key));
    if (key.includes(text) || dump.includes(text)) found.push(key);
  }
  return found;
}

async function read(redis: TestRedis, key: string): Promise<unknown> {
  const type = await redis.command("TYPE", key);
  if (type === "hash") return redis.command("HGETALL", key);
  if (type === "zset") return redis.command("ZRANGE", key, "0", "-1");
  return redis.command("GET", key);
}

t.test("an id whose user was never created disappears from the list", async (t) => {
  const { redis, users } = await setUp(t);
  await users.createUser(user("keeper"));
  await without(redis, ["eval", "evalsha"], () =>
    t.rejects(users.createUser(user("never")), UNAVAILABLE).then(() => {}),
  );
  t.same(await redis.command("ZRANGE", "prefixd:users", "0", "-1"), ["keeper", "never"]);
  const next = await openRedisUserStore({ url: redis.url, sweepMs: 50 });
  t.teardown(() => next.close());
  await eventually(async () => (await keysWith(redis, "never")).length === 0);
  t.same(
    (await next.listUsers({ limit: 9 })).map(({ id }) => id),
    ["keeper"],
    "swept at the start",
  );

  await redis.command("ZADD", "prefixd:users", "0", "again");
  t.same(
    (await users.listUsers({ limit: 9 })).map(({ id }) => id),
    ["keeper"],
  );
  await eventually(async () => (await keysWith(redis, "again")).length === 0);
  t.pass("swept by a list that came across it");
});

t.test("a key's index entry does not outlive its key", async (t) => {
  const { redis, users } = await setUp(t);
  await users.createUser(user("ann"));
  const [never, kept, half] = [apiKey("ann"), apiKey("ann"), apiKey("ann")];
  await without(redis, ["eval", "evalsha"], () => t.rejects(users.putKey(never), UNAVAILABLE).then(() => {}));
  t.ok(Number(await redis.command("TTL", `prefixd:key:${never.id}`)) > 0, "of one that was never put it expires");
  for (const key of [kept, half]) await users.putKey(key);
  t.equal(await redis.command("TTL", `prefixd:key:${kept.id}`), -1, "of one that was it stays");
  t.match(await users.findKey(kept.id), kept);

  await without(redis, ["eval", "evalsha"], () =>
    t.rejects(users.deleteKey("ann", half.id), UNAVAILABLE).then(() => {}),
  );
  t.equal(await users.findKey(half.id), null, "half deleted it does not work");
  t.equal(await users.deleteKey("ann", half.id), true, "and can be deleted again");
  t.equal(await users.deleteKey("bob", kept.id), false);
  t.match(await users.findKey(kept.id), kept, "somebody else's is left alone");

  await without(redis, ["eval", "evalsha"], () =>
    t.rejects(users.deleteUser("ann", { keepUsage: false }), UNAVAILABLE).then(() => {}),
  );
  await users.deleteUser("ann", { keepUsage: false }).catch(() => undefined);
  await redis.command("DEL", `prefixd:key:${never.id}`);
  t.same(
    await redis.command("KEYS", "*"),
    ["prefixd:deletions"],
    "a removal that ended in the middle and is repeated leaves nothing",
  );
});

t.test("a guest added by a change that crashed midway is removed from the list", async (t) => {
  const { redis } = await setUp(t);
  const store = await openRedisStore({ url: redis.url });
  t.teardown(() => store.close());
  const key = { user: "ann", name: "p" };
  await store.put(await record(key, 1));
  await store.listShared("ann", { limit: 1 });
  await without(redis, ["hscan"], () =>
    t.rejects(store.patchMeta(key, { shared_with: ["doomed"] }), UNAVAILABLE).then(() => {}),
  );
  t.match(await store.head(key), { shared_with: ["doomed"] }, "the record has it, the index does not");
  t.same(await redis.command("EXISTS", "prefixd:{doomed}:shared"), 0);
  await store.deleteUser("doomed");
  await store.deleteUser("doomed", { last: true });
  t.notMatch(await store.head(key), { shared_with: ["doomed"] });
  t.same(await keysWith(redis, "doomed"), ["prefixd:{doomed}:removed"], "which expires");
  await store.readmitUser("doomed");
  t.same(await store.listShared("doomed", { limit: 9 }), []);
});

t.test("no inbox names a removed user, neither that of a dead replica nor of a live one", async (t) => {
  const { redis } = await setUp(t);
  await redis.command("HSET", "prefixd:{replicas}:beats", "dead", "7");
  const handler = async (): Promise<{ running: number; queued: number }> => ({ running: 0, queued: 0 });
  const bus = await openRedisReplicaBus({ url: redis.url, handler, onLapse: () => {}, leaseMs: 500 });
  t.teardown(() => bus.close());
  const { replicas } = await bus.broadcast({ kind: "user", user: "doomed" });
  t.same(
    new Map(replicas.map(({ id, acknowledgedAt }) => [id, acknowledgedAt === null])),
    new Map([
      ["dead", true],
      [bus.id, false],
    ]),
  );
  t.same(await keysWith(redis, "doomed"), []);
});
