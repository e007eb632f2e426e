/** One process as a replica, on each backend: when it may serve, what a removal ends here, and what the end of a lease. */
import { join } from "node:path";
import t, { type Test } from "tap";
import { parseConfig, type Config } from "../../src/config.ts";
import type { PrefixdError } from "../../src/errors.ts";
import { createLogger } from "../../src/observability/logging.ts";
import { createPrefixRegistry } from "../../src/prefixes/registry.ts";
import { openRedis } from "../../src/redis/connection.ts";
import { openRedisReplicaBus } from "../../src/redis/replica-bus.ts";
import type { Backend } from "../../src/replicas/backend.ts";
import { Replica } from "../../src/replicas/replica.ts";
import { openBackend } from "../../src/start/backend.ts";
import { AdminKeys } from "../../src/users/admin-keys.ts";
import { createApiKey } from "../../src/users/api-key.ts";
import { user } from "../contract/user-store.ts";
import { BASE, record, SHAPE } from "../prefixes/records.ts";
import { ADMIN_KEY, eventually } from "../support/fault-client.ts";
import { startRedis } from "../support/redis.ts";
import { lacking } from "../support/requirements.ts";

const silent = createLogger("silent");
const poem = { user: "ann", name: "poem" };

async function rig(t: Test, backend: Backend) {
  t.teardown(() => backend.close());
  const events: string[] = [];
  const failed: string[] = [];
  const replica = new Replica({
    backend,
    shape: SHAPE,
    prefixCacheBytes: 1 << 20,
    name: "test",
    adminKeys: new AdminKeys([ADMIN_KEY]),
    logger: silent,
    onStoreError: (operation) => void failed.push(operation),
  });
  t.teardown(() => replica.close());
  const usageOf = async (id: string): Promise<number> => (await backend.users.usage(id, { limit: 100 })).length;
  const parts = {
    generation: {
      endRequestsOf: async ({ name }: { name: string }) => {
        events.push(`end ${name}`);
        return { running: 1, queued: 0 };
      },
      endRequestsOfUser: async (id: string) => {
        events.push(`end all of ${id}`);
        // As a request does that is ended.
        replica.usage.record({
          ...{ user: id, prefix: null, requests: 1, prefixTokens: 1, promptTokens: 1, completionTokens: 1 },
          ...{ queueSeconds: 0, runSeconds: 0 },
        });
        return { running: 2, queued: 1 };
      },
      endRequestsOfKey: async (id: string, key: string) => {
        events.push(`end key ${key} of ${id}`);
        return { running: 1, queued: 0 };
      },
      suspendUser: async (id: string) => {
        events.push(`suspend ${id}`);
        return { running: 1, queued: 1 };
      },
      resumeUser: (id: string) => void events.push(`resume ${id}`),
      readmitUser: (id: string) => void events.push(`readmit ${id}`),
      endAll: ({ code }: PrefixdError) => void events.push(`end everything: ${code}`),
    },
    folding: {
      endOfUser: (id: string) => void events.push(`end folds of ${id}`),
      suspendUser: (id: string) => void events.push(`suspend folds of ${id}`),
      resumeUser: (id: string) => void events.push(`resume folds of ${id}`),
      readmitUser: () => undefined,
      endAll: ({ code }: PrefixdError) => void events.push(`end all folds: ${code}`),
    },
    training: {
      endOfUser: async (id: string) => void events.push(`end training of ${id}`),
      suspendUser: (id: string) => void events.push(`suspend training of ${id}`),
      endJob: async (id: string, job: string) => void events.push(`end ${job} of ${id}`),
      readmitUser: () => undefined,
      lapse: () => void events.push("end all training"),
    },
    engine: { wipeFreed: async () => void events.push("wipe") },
  };
  const addUser = async (id: string): Promise<string> => {
    await backend.users.createUser(user(id));
    const { key, ...rest } = createApiKey();
    await backend.users.putKey({ ...rest, user: id, createdAt: "", expiresAt: null });
    return `Bearer ${key}`;
  };
  return { replica, parts, events, failed, usageOf, addUser };
}

/** What holds on every backend. */
async function contract(t: Test, backend: Backend): Promise<void> {
  const { replica, parts, events, failed, usageOf, addUser } = await rig(t, backend);
  const [ann, bob] = [await addUser("ann"), await addUser("bob")];
  const registry = createPrefixRegistry({
    ...{ store: replica.prefixes, cache: replica.prefixCache, shape: SHAPE, baseFingerprint: BASE },
    fold: () => Promise.reject(new Error("not called")),
    tryPrefix: () => Promise.resolve(),
  });

  t.notOk(replica.mayServe(), "before it has joined");
  await t.rejects(replica.check(), { code: "store_unavailable" });
  await t.rejects(replica.broadcast({ kind: "user", user: "ann" }), { code: "store_unavailable" });
  await replica.join(parts);
  t.ok(replica.mayServe());
  await replica.check();

  t.match(await replica.auth.authenticate(ann), { user: "ann" });
  t.match(replica.shares.of("ann"), { weight: user("ann").weight }, "in memory with the first request");
  for (const name of ["poem", "other"]) {
    const put = await record({ user: "ann", name }, name.length);
    await replica.prefixes.put(put);
    await replica.prefixCache.resolve(put.meta, () => {});
  }
  await replica.everywhere(registry).remove(poem);
  t.same(events.splice(0), ["end poem", "wipe"]);
  await t.rejects(
    replica.prefixCache.resolve(poem, () => {}),
    { code: "prefix_not_found" },
  );
  t.ok(replica.prefixCache.holds("ann"), "the other one");

  t.match(await replica.removal.removeUser("ann", { keepUsage: true }), { removed: { running: 2, queued: 1 } });
  t.same(events.splice(0), ["end folds of ann", "end training of ann", "end all of ann", "wipe"]);
  await replica.broadcast({ kind: "job", user: "bob", id: "ftjob-x" });
  t.same(events.splice(0), ["end ftjob-x of bob"]);
  t.notOk(replica.prefixCache.holds("ann"));
  await t.rejects(replica.auth.authenticate(ann), { code: "unauthorized" }, "at once");
  t.match(await replica.auth.authenticate(bob), { user: "bob" });
  t.equal(await usageOf("ann"), 1, "what was used up to then is written before the record goes");

  await t.rejects(replica.prefixes.put(await record(poem, 1), { precondition: { ifMatch: "*" } }));
  t.same(failed, [], "an answer is no fault");
}

const config = (store: string): Config => parseConfig(["--store", store], {}) as Config;

t.test("a folder", async (t) => contract(t, await openBackend(config(`lmdb:${join(t.testdir(), "lmdb")}`), silent)));

t.test("a Redis", { skip: lacking("redis-server") }, async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  await contract(t, await openBackend(config(redis.url), silent));
});

t.test("the end of the lease ends and forgets everything", { skip: lacking("redis-server") }, async (t) => {
  const real = await startRedis();
  t.teardown(() => real.stop());
  const backend = await openBackend(config(real.url), silent);
  const redis = await openRedis({ url: real.url });
  t.teardown(() => redis.close());
  const { replica, parts, events, failed, addUser } = await rig(t, {
    ...backend,
    joinReplicas: (options) => openRedisReplicaBus({ redis, leaseMs: 500, ...options }),
  });
  const ann = await addUser("ann");
  await replica.join(parts);
  await replica.prefixes.put(await record(poem, 1));
  await replica.prefixCache.resolve(poem, () => {});
  await replica.auth.authenticate(ann);
  const arriving = await replica.training.receive("ann");
  await real.kill();
  await eventually(async () => events.length > 0);
  t.notOk(replica.mayServe());
  t.same(events, ["end all training", "end everything: store_unavailable", "end all folds: store_unavailable", "wipe"]);
  t.notOk(replica.prefixCache.holds("ann"));
  await t.rejects(
    replica.auth.authenticate(ann),
    { code: "store_unavailable" },
    "a key that was known is not any more",
  );
  t.same(failed.splice(0), ["findKey"]);
  await t.rejects(replica.training.getJob("ann", "ftjob-x"), { code: "store_unavailable" });
  await t.rejects(replica.training.receive("ann"), { code: "store_unavailable" });
  await t.rejects(arriving.write(Buffer.alloc(1 << 20)), { code: "store_unavailable" });
  t.same(failed, ["getJob", "receive", "write"], "faults of the training store count, too");
});
