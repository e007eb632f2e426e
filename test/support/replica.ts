/**
 * One replica in its own process, on a tiny golden model: store, cache, engine, generation and bus wired as in main.ts,
 * without HTTP. Takes commands over IPC; `ReplicaProcess` in replica-process.ts is the other end.
 */
import { Redis } from "ioredis";
import { Engine } from "../../src/engine/engine.ts";
import { lostTouch, PrefixdError } from "../../src/errors.ts";
import { FoldingService } from "../../src/generation/folding.ts";
import { GenerationService, type ValidGenerateRequest } from "../../src/generation/service.ts";
import { exactly } from "../../src/generation/lengths.ts";
import { createPrefixCache } from "../../src/prefixes/cache.ts";
import { openRedisStore } from "../../src/redis/prefix-store.ts";
import { createPrefixRegistry } from "../../src/prefixes/registry.ts";
import type { RemovedUser, UserStore } from "../../src/users/store.ts";
import type { User } from "../../src/users/types.ts";
import { openRedisReplicaBus } from "../../src/redis/replica-bus.ts";
import { createUserRemoval, removeEverywhere } from "../../src/replicas/removal.ts";
import { createReplicaHandler, dropEverything, type ReplicaBus } from "../../src/replicas/replica-bus.ts";
import { BASE, record } from "../prefixes/records.ts";
import { FakeTokenizer } from "./fake-tokenizer.ts";
import { goldenDir, GREEDY, openTestModel, silentObserver } from "./model.ts";
import type { ReplicaCall } from "./replica-process.ts";

const [url = "", leaseMs = "10000"] = process.argv.slice(2);
const SLOTS = 6;

const redis = new Redis(url);
const model = await openTestModel(goldenDir("gelu-new-f32"), { slots: SLOTS });
const { shape } = model.runner;
const store = await openRedisStore({ url });
const cache = createPrefixCache({ store, shape, maxBytes: 1 << 20, verifyMs: 500 });
const replica: { bus?: ReplicaBus } = {};
const mayEmit = (): boolean => replica.bus?.mayServe() ?? false;
const engine = new Engine({ runner: model.runner, maxQueue: 50, prefillChunk: 16, observer: silentObserver, mayEmit });
const folding = new FoldingService({ engine });
const registry = createPrefixRegistry({
  store,
  cache,
  shape,
  baseFingerprint: BASE,
  fold: (...args) => folding.fold(...args),
  tryPrefix: (...args) => folding.tryPrefix(...args),
});
const metrics = { request: () => undefined };
const generation = new GenerationService({
  engine,
  prefixes: registry,
  tokenizer: new FakeTokenizer(),
  positions: shape.positions,
  eosIds: [],
  allowBaseModel: false,
  metrics,
  mayEmit,
});
const parts = { generation, folding, prefixCache: cache, engine };
const bus = await openRedisReplicaBus({
  url,
  leaseMs: Number(leaseMs),
  handler: createReplicaHandler(parts),
  onLapse: () => dropEverything(parts, lostTouch()),
});
replica.bus = bus;

/** Just enough of a user store: a set of ids. */
const users: Pick<UserStore, "getUser" | "listKeys" | "deleteKey" | "deleteUser"> = {
  listKeys: async () => [],
  deleteKey: async () => false,
  getUser: async (id): Promise<User | null> =>
    (await redis.sismember("test:users", id)) === 1 ? ({ id } as User) : null,
  deleteUser: async (id): Promise<RemovedUser> => {
    if ((await redis.srem("test:users", id)) === 0) throw new PrefixdError("user_not_found", "none");
    return { keys: 1, usageRows: 0 };
  },
};
const removal = createUserRemoval({ users, prefixes: store, bus });
const everywhere = removeEverywhere(registry, bus);

/** A clock shared by all processes of the machine. */
const now = (): number => Number(process.hrtime.bigint() / 1000n);

async function generate(call: Extract<ReplicaCall, { op: "run" }>): Promise<unknown> {
  const request: ValidGenerateRequest = {
    id: `run-${call.id}`,
    user: call.user,
    prefix: { user: call.user, name: call.name },
    prompts: [Int32Array.from(call.prompt)],
    n: 1,
    bestOf: null,
    beams: null,
    echo: false,
    ...exactly(call.max),
    sampling: GREEDY,
    seed: 0,
    logprobs: 0,
    stop: [],
    stopTokenIds: [],
    ignoreEos: true,
  };
  const out = { ids: [] as number[], logprobs: [] as (number | null)[], lastAt: 0, end: "" };
  return new Promise((resolve) => {
    const finish = (end: string): void => resolve({ ...out, end });
    const listener = {
      onStep(
        deltas: readonly { tokenIds: number[]; logprobs: { token: (number | null)[] }; finishReason: string | null }[],
        end: unknown,
      ): void {
        // As the HTTP side does right before a write. The time is taken before, since a process may be stopped after
        // any instruction; what it was allowed to write then counts from when it asked.
        const at = now();
        if (!bus.mayServe()) return finish("store_unavailable");
        for (const delta of deltas) {
          if (delta.tokenIds.length > 0) out.lastAt = at;
          out.ids.push(...delta.tokenIds);
          out.logprobs.push(...delta.logprobs.token);
          if (end !== null) finish(delta.finishReason ?? "");
        }
      },
      onError: (error: PrefixdError): void => finish(error.code),
    };
    generation
      .start(request, listener, new AbortController().signal)
      .catch((error: unknown) => finish(error instanceof PrefixdError ? error.code : String(error)));
  });
}

async function answer(call: ReplicaCall): Promise<unknown> {
  switch (call.op) {
    case "create":
      await removal.readmitUser(call.user);
      return redis.sadd("test:users", call.user);
    case "put":
      return store.put(await record({ user: call.user, name: call.name }, call.seed, { shape, length: call.length }));
    case "run":
      return generate(call);
    case "remove": {
      const receipt = await removal.removeUser(call.user, { keepUsage: false });
      return { receipt, at: now() };
    }
    case "removePrefix":
      await everywhere.remove({ user: call.user, name: call.name });
      return { at: now() };
    case "holds": {
      await engine.wipeFreed();
      return cache.holds(call.user);
    }
    case "dirtyRows": {
      await engine.wipeFreed();
      return Array.from({ length: SLOTS + 1 }, (_, row) => row).filter((row) =>
        model.runner.readRow(row).data.some((value) => value !== 0),
      ).length;
    }
    case "mayServe":
      return bus.mayServe();
    case "id":
      return bus.id;
  }
}

process.on("message", (call: ReplicaCall & { id: number }) => {
  const send = (reply: object): void => void process.send?.({ id: call.id, ...reply });
  answer(call).then(
    (value) => send({ value }),
    (error: unknown) => send({ failure: error instanceof PrefixdError ? error.code : String(error) }),
  );
});
process.on("disconnect", () => process.exit(0));
process.send?.({ id: 0, value: "ready" });
