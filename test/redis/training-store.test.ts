import t from "tap";
import { openRedisTrainingStore } from "../../src/redis/training-store.ts";
import { WorkFolders } from "../../src/training/jobs/work-folders.ts";
import { contractOnRedis } from "../contract/on-redis.ts";
import { CONTRACT_CLAIM_MS, CONTRACT_CLOCK, trainingStoreContract } from "../contract/training-store.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { temporaryFolder } from "../support/server.ts";

skipFileWithout(t, "redis-server");

const folder = temporaryFolder();
t.teardown(() => folder.remove());
const work = new WorkFolders(folder.path);

contractOnRedis(trainingStoreContract, (at) =>
  openRedisTrainingStore({ ...at, work, claimMs: CONTRACT_CLAIM_MS, clock: () => CONTRACT_CLOCK.now, chunkBytes: 100 }),
);
