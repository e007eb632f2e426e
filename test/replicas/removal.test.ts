/** Removal in one process: the order of its steps, and what happens when one of them fails. */
import { join } from "node:path";
import t, { type Test } from "tap";
import { PrefixdError } from "../../src/errors.ts";
import { createPrefixCache } from "../../src/prefixes/cache.ts";
import { openLmdbStore } from "../../src/lmdb/prefix-store.ts";
import { openRedisStore } from "../../src/redis/prefix-store.ts";
import type { PrefixStore } from "../../src/prefixes/store.ts";
import { openRedisReplicaBus } from "../../src/redis/replica-bus.ts";
import { createUserRemoval } from "../../src/replicas/removal.ts";
import {
  createLocalBus,
  createReplicaHandler,
  type ReplicaBus,
  type ReplicaHandler,
} from "../../src/replicas/replica-bus.ts";
import type { ApiKeyRecord, User } from "../../src/users/types.ts";
import { record, SHAPE } from "../prefixes/records.ts";
import { startRedis } from "../support/redis.ts";
import { lacking } from "../support/requirements.ts";

const key = { user: "ann", name: "poem" };
const at = new Date("2026-01-31T12:00:00Z");

/** Just enough of a user store. */
class Users {
  async listKeys(): Promise<ApiKeyRecord[]> {
    return [];
  }
  async deleteKey(): Promise<boolean> {
    return false;
  }
  readonly ids = new Set(["ann", "bob"]);
  async getUser(id: string): Promise<User | null> {
    return this.ids.has(id) ? ({ id } as User) : null;
  }
  async deleteUser(id: string): Promise<{ keys: number; usageRows: number }> {
    if (!this.ids.delete(id)) throw new PrefixdError("user_not_found", "none");
    return { keys: 2, usageRows: 0 };
  }
}

async function rig(t: Test, store: PrefixStore, makeBus: (handler: ReplicaHandler) => Promise<ReplicaBus>) {
  t.teardown(() => store.close());
  const events: string[] = [];
  const cache = createPrefixCache({ store, shape: SHAPE, maxBytes: 1 << 20 });
  const generation = {
    endRequestsOf: async () => ({ running: 1, queued: 0 }),
    endRequestsOfUser: async (user: string) => {
      events.push(`end ${user}, blocked: ${await store.removalState(user)}`);
      return { running: 3, queued: 2 };
    },
    endRequestsOfKey: async () => ({ running: 0, queued: 0 }),
    suspendUser: async () => ({ running: 0, queued: 0 }),
    resumeUser: () => undefined,
    readmitUser: (user: string) => void events.push(`readmit ${user}`),
    endAll: () => undefined,
  };
  const folding = {
    endOfUser: (user: string) => void events.push(`end folds of ${user}`),
    suspendUser: () => undefined,
    resumeUser: () => undefined,
    readmitUser: (user: string) => void events.push(`readmit folds of ${user}`),
    endAll: () => undefined,
  };
  let failures = 0;
  const engine = {
    wipeFreed: async () => {
      events.push("wipe");
      if (failures-- > 0) throw new PrefixdError("internal", "injected");
    },
  };
  const handler = createReplicaHandler({
    generation,
    folding,
    prefixCache: cache,
    engine,
    forget: (user) => void events.push(`forget ${user}`),
  });
  const bus = await makeBus(handler);
  t.teardown(() => bus.close());
  const users = new Users();
  const removal = createUserRemoval({ users, prefixes: store, bus, training: null, clock: () => at });
  return { events, cache, users, removal, bus, fail: (times: number) => void (failures = times) };
}

async function whole(
  t: Test,
  store: PrefixStore,
  makeBus: (handler: ReplicaHandler) => Promise<ReplicaBus>,
): Promise<void> {
  const { events, cache, users, removal, bus } = await rig(t, store, makeBus);
  const [mine, other] = [await record(key, 1), await record({ user: "bob", name: "poem" }, 2)];
  for (const put of [mine, other]) {
    await store.put(put);
    await cache.resolve(put.meta, () => {});
  }
  t.ok(cache.holds("ann"));
  const receipt = await removal.removeUser("ann", { keepUsage: true });
  t.match(receipt, {
    user: "ann",
    removed: { prefixes: 1, keys: 2, bytes: mine.meta.bytes, running: 3, queued: 2 },
    replicas: [{ id: bus.id, acknowledged_at: /^2\d{3}-/ }],
    completed_at: at.toISOString(),
  });
  t.same(events, ["forget ann", "end folds of ann", "end ann, blocked: open", "wipe", "forget ann"]);
  t.same([cache.holds("ann"), cache.holds("bob"), users.ids.has("ann")], [false, true, false]);
  t.same(await store.head(other.meta), other.meta);
  await t.rejects(store.put(mine), { code: "removed" });
  await t.rejects(removal.removeUser("ann", { keepUsage: true }), { code: "user_not_found" }, "it is done");
  await t.rejects(removal.removeUser("nobody", { keepUsage: true }), { code: "user_not_found" });
  await removal.readmitUser("ann");
  t.equal(events.includes("readmit ann"), true);
  t.equal(events.includes("readmit folds of ann"), true);
  t.match(await store.put(mine), { created: true });
}

const local = (handler: ReplicaHandler): Promise<ReplicaBus> => Promise.resolve(createLocalBus(handler));

t.test("LMDB, one process", async (t) => whole(t, await openLmdbStore({ dir: join(t.testdir(), "lmdb") }), local));

t.test("Redis, one replica", { skip: lacking("redis-server") }, async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  const { url } = redis;
  await whole(t, await openRedisStore({ url }), (handler) =>
    openRedisReplicaBus({ url, handler, onLapse: () => undefined }),
  );
});

t.test("a failure leaves the removal open, and another call finishes it", async (t) => {
  const store = await openLmdbStore({ dir: join(t.testdir(), "lmdb") });
  const { removal, users, fail } = await rig(t, store, local);
  await store.put(await record(key, 1));
  fail(1);
  await t.rejects(removal.removeUser("ann", { keepUsage: false }), { code: "internal" });
  t.same(
    [await store.removalState("ann"), users.ids.has("ann")],
    ["open", true],
    "uploads are refused all the same; the record goes last, so that the call can be repeated",
  );
  await t.rejects(removal.readmitUser("ann"), { code: "user_exists" }, "no new user of that id before it is finished");
  t.match(await removal.removeUser("ann", { keepUsage: false }), { user: "ann", removed: { running: 3 } });
  t.equal(await store.removalState("ann"), "done");
});

t.test(
  "a handler that fails once is called again, and the broadcast succeeds",
  { skip: lacking("redis-server") },
  async (t) => {
    const redis = await startRedis();
    t.teardown(() => redis.stop());
    const { url } = redis;
    const { removal, fail } = await rig(t, await openRedisStore({ url }), (handler) =>
      openRedisReplicaBus({ url, leaseMs: 1000, handler, onLapse: () => undefined }),
    );
    fail(1);
    t.match(await removal.removeUser("ann", { keepUsage: false }), { replicas: [{ acknowledged_at: /^2/ }] });
    t.same(
      ((await redis.command("KEYS", "*")) as string[]).filter(
        (name) => !/:beats$|:shares-built$|:deletions$/.test(name),
      ),
      ["prefixd:{ann}:removed"],
      "no command is left in an inbox",
    );
  },
);
