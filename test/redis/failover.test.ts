/** A primary and a replica of Redis: what takes something away is answered when the replica has it, so that a failover cannot bring it back. */
import t from "tap";
import type { Test } from "tap";
import { openRedisStore } from "../../src/redis/prefix-store.ts";
import type { PrefixStore } from "../../src/prefixes/store.ts";
import { openRedisUserStore } from "../../src/redis/user-store.ts";
import type { UserStore } from "../../src/users/store.ts";
import { apiKey, user } from "../contract/user-store.ts";
import { record } from "../prefixes/records.ts";
import { eventually } from "../support/fault-client.ts";
import { startRedis, startRedisCluster, type TestRedis } from "../support/redis.ts";
import { skipFileWithout } from "../support/requirements.ts";

skipFileWithout(t, "redis-server");

const UNCONFIRMED = { code: "store_unavailable", message: /replicas have not confirmed/ };
const poem = { user: "ann", name: "poem" };

interface Pair {
  readonly primary: TestRedis;
  readonly replica: TestRedis;
  readonly prefixes: PrefixStore;
  readonly users: UserStore;
}

async function stores(t: Test, redis: TestRedis, waitReplicas = 0): Promise<Pick<Pair, "prefixes" | "users">> {
  const [prefixes, users] = [
    await openRedisStore({ url: redis.url, waitReplicas }),
    await openRedisUserStore({ url: redis.url, waitReplicas }),
  ];
  t.teardown(() => Promise.all([prefixes.close(), users.close()]).then(() => {}));
  return { prefixes, users };
}

async function untilReplicated(primary: TestRedis): Promise<void> {
  await eventually(async () => /slave0:.*state=online/.test(String(await primary.command("INFO", "replication"))));
}

async function pair(t: Test): Promise<Pair> {
  const [primary, replica] = [await startRedis(), await startRedis()];
  t.teardown(() => Promise.all([primary.stop(), replica.stop()]).then(() => {}));
  await replica.command("REPLICAOF", "127.0.0.1", String(primary.port));
  await untilReplicated(primary);
  return { primary, replica, ...(await stores(t, primary)) };
}

t.test(
  "removals: answered when the replica has them, 503 while it does not answer, and gone after a failover",
  async (t) => {
    const { replica, primary, prefixes, users } = await pair(t);
    const key = apiKey("ann");
    await users.createUser(user("ann"));
    await users.putKey(key);
    await prefixes.put(await record(poem, 1));
    await prefixes.put(await record({ ...poem, name: "shared" }, 2));
    await prefixes.patchMeta({ ...poem, name: "shared" }, { shared_with: ["bob"] });

    replica.signal("SIGSTOP");
    await t.rejects(users.deleteKey("ann", key.id), UNCONFIRMED);
    await t.rejects(prefixes.delete(poem), UNCONFIRMED);
    await t.rejects(prefixes.patchMeta({ ...poem, name: "shared" }, { shared_with: [] }), UNCONFIRMED);
    await t.rejects(prefixes.deleteUser("ann"), UNCONFIRMED);
    await t.rejects(users.deleteUser("ann", { keepUsage: false }), UNCONFIRMED);
    t.ok(await prefixes.put(await record({ user: "bob", name: "p" }, 3)), "what takes nothing away does not wait");
    replica.signal("SIGCONT");
    await prefixes.deleteUser("ann", { last: true });
    await users
      .deleteUser("ann", { keepUsage: false })
      .catch((error: unknown) => t.match(error, { code: "user_not_found" }));

    await primary.kill();
    await replica.command("REPLICAOF", "NO", "ONE");
    const after = await stores(t, replica);
    t.equal(await after.users.getUser("ann"), null);
    t.equal(await after.users.findKey(key.id), null);
    t.same(await after.prefixes.list("ann", { limit: 9 }), []);
    t.equal(await after.prefixes.removalState("ann"), "done");
    t.ok(await after.prefixes.head({ user: "bob", name: "p" }));
  },
);

t.test("a failover that loses a removal loses one that was answered with 503", async (t) => {
  const { primary, replica, prefixes } = await pair(t);
  await prefixes.put(await record(poem, 1));
  await eventually(async () => (await replica.command("HEXISTS", "prefixd:{ann}:prefixes", "poem")) === 1);
  replica.signal("SIGSTOP");
  await t.rejects(prefixes.deleteUser("ann"), UNCONFIRMED);
  await primary.kill();
  replica.signal("SIGCONT");
  await replica.command("REPLICAOF", "NO", "ONE");
  const after = await stores(t, replica);
  await after.prefixes.deleteUser("ann", { last: true });
  t.same(await after.prefixes.list("ann", { limit: 9 }), [], "repeated, it is done");
});

t.test("a required number of replicas", async (t) => {
  const { primary } = await pair(t);
  const [one, two] = [await stores(t, primary, 1), await stores(t, primary, 2)];
  await t.rejects(two.prefixes.deleteUser("ann"), UNCONFIRMED, "there is one");
  t.ok(await one.prefixes.deleteUser("ann"));
});

t.test("waiting for a replica holds up nothing else", async (t) => {
  const { primary, replica, prefixes, users } = await pair(t);
  const key = apiKey("ann");
  await users.createUser(user("ann"));
  await users.putKey(key);
  await prefixes.put(await record(poem, 1));
  replica.signal("SIGSTOP");
  for (const [removal, other] of [
    [() => users.deleteKey("ann", key.id), () => users.getUser("ann")],
    [() => prefixes.delete(poem), () => prefixes.head(poem)],
  ] as const) {
    const removed = t.rejects(removal(), UNCONFIRMED).then(() => "the removal");
    await eventually(async () => /^blocked_clients:1/m.test(String(await primary.command("INFO", "clients"))));
    t.equal(await Promise.race([removed, other().then(() => "the other")]), "the other", "is answered first");
    await removed;
  }
  replica.signal("SIGCONT");
});

t.test("a Cluster's primaries wait each for its own replicas", async (t) => {
  const cluster = await startRedisCluster({ replicas: true });
  t.teardown(() => cluster.stop());
  for (const primary of cluster.nodes.slice(0, 2)) await untilReplicated(primary);
  const open = (waitReplicas: number) => openRedisUserStore({ url: cluster.url, waitReplicas });
  const [connected, one, two] = [await open(0), await open(1), await open(2)];
  t.teardown(() => Promise.all([connected, one, two].map((users) => users.close())).then(() => {}));
  await one.createUser(user("ann"));
  const keys = [apiKey("ann"), apiKey("ann"), apiKey("ann")] as const;
  for (const key of keys) await one.putKey(key);
  t.equal(await one.deleteKey("ann", keys[0].id), true);
  t.equal(await connected.deleteKey("ann", keys[1].id), true);
  await t.rejects(two.deleteKey("ann", keys[2].id), UNCONFIRMED, "each has one");
  const replicas = cluster.nodes.slice(2);
  for (const replica of replicas) replica.signal("SIGSTOP");
  await t.rejects(one.deleteUser("ann", { keepUsage: false }), UNCONFIRMED);
  for (const replica of replicas) replica.signal("SIGCONT");
});
