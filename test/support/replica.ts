/**
 * One replica in a process of its own, on a tiny golden model: backend, replica, engine and generation put together as main.ts
 * does, without HTTP. Takes commands over IPC; see `ReplicaProcess` in replica-process.ts for the other end.
 */
import { Engine } from "../../src/engine/engine.ts";
import { PrefixdError } from "../../src/errors.ts";
import { FoldingService } from "../../src/generation/folding.ts";
import { GenerationService, type ValidGenerateRequest } from "../../src/generation/service.ts";
import { exactly } from "../../src/generation/lengths.ts";
import { createLogger } from "../../src/observability/logging.ts";
import { createPrefixRegistry } from "../../src/prefixes/registry.ts";
import { openRedis } from "../../src/redis/connection.ts";
import { openRedisStore } from "../../src/redis/prefix-store.ts";
import { openRedisReplicaBus } from "../../src/redis/replica-bus.ts";
import { openRedisTrainingStore } from "../../src/redis/training-store.ts";
import { openRedisUserStore } from "../../src/redis/user-store.ts";
import { Replica } from "../../src/replicas/replica.ts";
import { WorkFolders } from "../../src/training/jobs/work-folders.ts";
import { MemoryTokenBuckets } from "../../src/users/token-rate.ts";
import { apiKey, user } from "../contract/user-store.ts";
import { BASE, record } from "../prefixes/records.ts";
import { FakeTokenizer } from "./fake-tokenizer.ts";
import { goldenDir, GREEDY, isWiped, openTestModel, silentObserver } from "./model.ts";
import type { ReplicaCall } from "./replica-process.ts";

const [url = "", leaseMs = "10000"] = process.argv.slice(2);
const SLOTS = 6;

const model = await openTestModel(goldenDir("gelu-new-f32"), { slots: SLOTS });
const { shape } = model.runner;
const redis = await openRedis({ url });
const replica = new Replica({
  backend: {
    prefixes: await openRedisStore({ redis }),
    users: await openRedisUserStore({ redis }),
    tokenBuckets: new MemoryTokenBuckets(),
    training: await openRedisTrainingStore({ redis, work: new WorkFolders("/nowhere") }),
    prefixVerifyMs: 500,
    joinReplicas: (options) => openRedisReplicaBus({ redis, leaseMs: Number(leaseMs), ...options }),
    close: async () => redis.close(),
  },
  shape,
  prefixCacheBytes: 1 << 20,
  name: `replica-${process.pid}`,
  adminKeys: null,
  logger: createLogger("silent"),
  onStoreError: () => undefined,
});
const { mayServe } = replica;
const engine = new Engine({
  runner: model.runner,
  maxQueue: 50,
  prefillChunk: 16,
  observer: silentObserver,
  mayEmit: mayServe,
});
const folding = new FoldingService({ engine });
const registry = createPrefixRegistry({
  store: replica.prefixes,
  cache: replica.prefixCache,
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
  mayEmit: mayServe,
});
await replica.join({ generation, folding, engine });
const everywhere = replica.everywhere(registry);

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
    constraint: null,
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
        if (!mayServe()) return finish("store_unavailable");
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
      await replica.removal.readmitUser(call.user);
      await replica.users.createUser(user(call.user)).catch((error: unknown) => {
        if (!(error instanceof PrefixdError && error.code === "user_exists")) throw error;
      });
      return replica.users.putKey(apiKey(call.user));
    case "put":
      return replica.prefixes.put(
        await record({ user: call.user, name: call.name }, call.seed, { shape, length: call.length }),
      );
    case "run":
      return generate(call);
    case "remove": {
      const receipt = await replica.removal.removeUser(call.user, { keepUsage: false });
      return { receipt, at: now() };
    }
    case "removePrefix":
      await everywhere.remove({ user: call.user, name: call.name });
      return { at: now() };
    case "holds": {
      await engine.wipeFreed();
      return replica.prefixCache.holds(call.user);
    }
    case "dirtyRows": {
      await engine.wipeFreed();
      let dirty = 0;
      for (let row = 0; row <= SLOTS; row++) if (!(await isWiped(model.runner, row))) dirty++;
      return dirty;
    }
    case "mayServe":
      return mayServe();
    case "id":
      return replica.id;
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
