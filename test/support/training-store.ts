import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type { Test } from "tap";
import { LmdbTrainingStore } from "../../src/lmdb/training-store.ts";
import { LmdbTrainingTables } from "../../src/lmdb/training-tables.ts";
import { openRedisTrainingStore } from "../../src/redis/training-store.ts";
import { TrainingService } from "../../src/training/jobs/service.ts";
import type { TrainingStore } from "../../src/training/jobs/store.ts";
import { WorkFolders } from "../../src/training/jobs/work-folders.ts";
import { startRedis } from "./redis.ts";
import { lacking } from "./requirements.ts";
import { temporaryFolder } from "./server.ts";

/** The LMDB store on this thread: one of its own takes as long to start as many tests. */
export function trainingStoreInThread(
  dir: string,
  { claimMs, clock }: { claimMs?: number; clock?: () => number } = {},
): TrainingStore {
  const tables = new LmdbTrainingTables({ dir, ...(claimMs === undefined ? {} : { claimMs }) }, clock);
  type Call = ConstructorParameters<typeof LmdbTrainingStore>[0]["call"];
  const call = async (method: keyof LmdbTrainingTables, ...args: unknown[]): Promise<unknown> =>
    (tables[method] as (...args: unknown[]) => unknown).apply(tables, args);
  return new LmdbTrainingStore({ call: call as Call, close: () => tables.close() }, { dir });
}

export const TRAINING_QUOTA = { jobs: 2, bytes: 64 * 1024, tokensPerDay: 1_000_000 };

/** Training as the HTTP side sees it; no job ever runs. */
export function trainingOn(store: TrainingStore): TrainingService {
  const runner = {
    look: () => {},
    kill: async () => {},
    lapse: () => {},
    endOfUser: async () => {},
    suspendUser: async () => {},
    readmitUser: () => {},
    isRemoved: () => false,
  };
  return new TrainingService({
    store,
    runner,
    quota: TRAINING_QUOTA,
    base: "f".repeat(64),
    endEverywhere: async () => {},
    sweep: async () => {},
    onCancel: () => {},
  });
}

/** The same over a store of its own. */
export function trainingService(t: { teardown(fn: () => Promise<void>): unknown }): {
  dir: string;
  store: TrainingStore;
  training: TrainingService;
} {
  // Not the test's own, which is emptied when a second app takes it.
  const folder = temporaryFolder();
  const store = trainingStoreInThread(folder.path);
  t.teardown(() => store.close().finally(folder.remove));
  return { dir: folder.path, store, training: trainingOn(store) };
}

export interface TrainingSetting {
  readonly store: TrainingStore;
  readonly training: TrainingService;
  /** One for each file that is being received. */
  readonly incoming: () => Promise<readonly string[]>;
}

/** The two kinds of store, each test in a place of its own. */
export const TRAINING_STORES: readonly {
  readonly name: string;
  readonly skip: string | false;
  readonly open: (t: Test) => Promise<TrainingSetting>;
}[] = [
  {
    name: "LMDB",
    skip: false,
    open: async (t) => {
      const { dir, ...service } = trainingService(t);
      return { ...service, incoming: () => readdir(join(dir, "training", "incoming")).catch(() => []) };
    },
  },
  { name: "Redis", skip: lacking("redis-server"), open: onRedis },
];

async function onRedis(t: Test): Promise<TrainingSetting> {
  const redis = await startRedis();
  const folder = temporaryFolder();
  const store = await openRedisTrainingStore({ url: redis.url, work: new WorkFolders(folder.path), chunkBytes: 100 });
  t.teardown(async () => {
    await store.close();
    await redis.stop();
    folder.remove();
  });
  return {
    store,
    training: trainingOn(store),
    incoming: async () => {
      const blobs = (await redis.command("KEYS", "*:blob:*")) as string[];
      const kept = await store.listFiles("local", { limit: 100, order: "asc" });
      // A blob has an id of its own.
      return blobs.slice(kept.length);
    },
  };
}
