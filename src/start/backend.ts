/** Opens the backend named by `--store`; the only module that knows all backends. */
import type { Config } from "../config.ts";
import { PrefixdError } from "../errors.ts";
import { FolderInUseError, lockFolder, type FolderLock } from "../lmdb/folder-lock.ts";
import { openLmdbStore } from "../lmdb/prefix-store.ts";
import { createLmdbTrainingStore } from "../lmdb/training-store.ts";
import { openLmdbUserStore } from "../lmdb/user-store.ts";
import type { Logger } from "../observability/logging.ts";
import type { Backend } from "../replicas/backend.ts";
import { createLocalBus } from "../replicas/replica-bus.ts";
import { MemoryTokenBuckets } from "../users/token-rate.ts";
import { Resources } from "./resources.ts";

/** @throws FolderInUseError, ConfigError, PrefixdError store_unavailable; leaves nothing open in that case */
export function openBackend(config: Config, logger: Logger): Promise<Backend> {
  const { storeFolder } = config;
  return Resources.openAll(async (resources) => {
    if (storeFolder !== null) return openOwn(storeFolder, logger, resources);
    // Loaded on demand: a server on its own folder starts without Redis's client.
    const { openShared } = await import("./redis-backend.ts");
    return openShared(config, logger, resources);
  });
}

/** A folder belongs to one process, which is its only replica. */
async function openOwn(dir: string, logger: Logger, resources: Resources): Promise<Backend> {
  const lock = await lockStore(dir);
  resources.defer(() => lock.release());
  if (lock.problem !== null)
    logger.warn(
      { dir, problem: lock.problem },
      "the file system of the store has no locks: nothing keeps a second server from starting on this folder",
    );
  const prefixes = await openLmdbStore({ dir });
  resources.defer(() => prefixes.close());
  const users = await openLmdbUserStore({ dir });
  resources.defer(() => users.close());
  const training = createLmdbTrainingStore({ dir });
  resources.defer(() => training.close());
  return {
    prefixes,
    users,
    tokenBuckets: new MemoryTokenBuckets(),
    training,
    // Verifying costs only a look at a file's times.
    prefixVerifyMs: 0,
    joinReplicas: async ({ handler, name }) => createLocalBus(handler, name),
    close: () => resources.release(),
  };
}

async function lockStore(dir: string): Promise<FolderLock> {
  try {
    return await lockFolder(dir);
  } catch (error) {
    throw error instanceof FolderInUseError
      ? error
      : new PrefixdError("store_unavailable", `The folder of --store lmdb:${dir} cannot be created or written to`, {
          cause: error,
        });
  }
}
