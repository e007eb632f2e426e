/** Opens the backend named by `--store`; the only module that knows all backends. */
import { join } from "node:path";
import type { Config } from "../config.ts";
import { PrefixdError } from "../errors.ts";
import { FolderInUseError, lockFolder, type FolderLock } from "../lmdb/folder-lock.ts";
import { openLmdbStore } from "../lmdb/prefix-store.ts";
import { createLmdbTrainingStore } from "../lmdb/training-store.ts";
import { openLmdbUserStore } from "../lmdb/user-store.ts";
import type { Logger } from "../observability/logging.ts";
import { openRedis } from "../redis/connection.ts";
import { readRedisTls } from "../redis/tls.ts";
import { openRedisStore } from "../redis/prefix-store.ts";
import { openRedisReplicaBus } from "../redis/replica-bus.ts";
import { openRedisTrainingStore } from "../redis/training-store.ts";
import { RedisTokenBuckets } from "../redis/token-rate.ts";
import { openRedisUserStore } from "../redis/user-store.ts";
import type { Backend } from "../replicas/backend.ts";
import { createLocalBus } from "../replicas/replica-bus.ts";
import { WorkFolders } from "../training/jobs/work-folders.ts";
import { MemoryTokenBuckets } from "../users/token-rate.ts";
import { Resources } from "./resources.ts";
import { openWorkFolder } from "./work-folder.ts";

/** @throws FolderInUseError, ConfigError, PrefixdError store_unavailable; leaves nothing open in that case */
export function openBackend(config: Config, logger: Logger): Promise<Backend> {
  const { storeFolder } = config;
  return Resources.openAll((resources) =>
    storeFolder === null ? openShared(config, logger, resources) : openOwn(storeFolder, logger, resources),
  );
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

/** All parts share one set of connections. */
async function openShared(config: Config, logger: Logger, resources: Resources): Promise<Backend> {
  const onError = (error: Error): void => logger.warn({ err: error }, "redis");
  const { store: url, redisWaitReplicas: waitReplicas, training: trains, cacheDir } = config;
  const redis = await openRedis({ url, tls: readRedisTls(config), waitReplicas, onError });
  resources.defer(() => redis.close());
  const prefixes = await openRedisStore({ redis });
  resources.defer(() => prefixes.close());
  const users = await openRedisUserStore({ redis });
  resources.defer(() => users.close());
  // Where nothing is trained nothing is worked on, and the folder need not be writable.
  const dir = join(cacheDir, "training");
  const work = new WorkFolders(trains === "on" ? await openWorkFolder(dir, resources) : dir);
  const training = await openRedisTrainingStore({ redis, work });
  resources.defer(() => training.close());
  return {
    prefixes,
    users,
    tokenBuckets: new RedisTokenBuckets(redis),
    training,
    prefixVerifyMs: 1000,
    joinReplicas: (options) => openRedisReplicaBus({ redis, onError, ...options }),
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
