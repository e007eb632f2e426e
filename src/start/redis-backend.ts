/** The backend that replicas share. */
import { join } from "node:path";
import type { Config } from "../config.ts";
import type { Logger } from "../observability/logging.ts";
import { openRedis } from "../redis/connection.ts";
import { openRedisStore } from "../redis/prefix-store.ts";
import { openRedisReplicaBus } from "../redis/replica-bus.ts";
import { readRedisTls } from "../redis/tls.ts";
import { RedisTokenBuckets } from "../redis/token-rate.ts";
import { openRedisTrainingStore } from "../redis/training-store.ts";
import { openRedisUserStore } from "../redis/user-store.ts";
import type { Backend } from "../replicas/backend.ts";
import { WorkFolders } from "../training/jobs/work-folders.ts";
import type { Resources } from "./resources.ts";
import { openWorkFolder } from "./work-folder.ts";

/**
 * All parts share one set of connections.
 * @throws ConfigError, PrefixdError store_unavailable; `resources` then holds what was opened so far
 */
export async function openShared(config: Config, logger: Logger, resources: Resources): Promise<Backend> {
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
