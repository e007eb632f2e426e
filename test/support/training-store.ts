import { LmdbTrainingStore } from "../../src/lmdb/training-store.ts";
import { LmdbTrainingTables } from "../../src/lmdb/training-tables.ts";
import { TrainingService } from "../../src/training/jobs/service.ts";
import type { TrainingStore } from "../../src/training/jobs/store.ts";
import { temporaryFolder } from "./server.ts";

/** The LMDB store on this thread: one of its own takes as long to start as many tests. */
export function trainingStoreInThread(dir: string): TrainingStore {
  const tables = new LmdbTrainingTables({ dir });
  type Call = ConstructorParameters<typeof LmdbTrainingStore>[0]["call"];
  const call = async (method: keyof LmdbTrainingTables, ...args: unknown[]): Promise<unknown> =>
    (tables[method] as (...args: unknown[]) => unknown).apply(tables, args);
  return new LmdbTrainingStore({ call: call as Call, close: () => tables.close() }, { dir });
}

export const TRAINING_QUOTA = { jobs: 2, bytes: 64 * 1024, tokensPerDay: 1_000_000 };

/** Training as the HTTP side sees it, over a real store; no job ever runs. */
export function trainingService(t: { teardown(fn: () => Promise<void>): unknown }): {
  dir: string;
  store: TrainingStore;
  training: TrainingService;
} {
  // Not the test's own, which is emptied when a second app takes it.
  const folder = temporaryFolder();
  const store = trainingStoreInThread(folder.path);
  t.teardown(() => store.close().finally(folder.remove));
  const runner = {
    look: () => {},
    kill: async () => {},
    endOfUser: async () => {},
    suspendUser: async () => {},
    readmitUser: () => {},
    isRemoved: () => false,
  };
  const training = new TrainingService({
    store,
    runner,
    quota: TRAINING_QUOTA,
    base: "f".repeat(64),
    onCancel: () => {},
  });
  return { dir: folder.path, store, training };
}
