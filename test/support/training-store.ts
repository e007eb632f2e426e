import { LmdbTrainingStore } from "../../src/lmdb/training-store.ts";
import { LmdbTrainingTables } from "../../src/lmdb/training-tables.ts";
import { TrainingService } from "../../src/training/jobs/service.ts";
import type { TrainingStore } from "../../src/training/jobs/store.ts";
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
