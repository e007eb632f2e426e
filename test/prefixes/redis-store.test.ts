import { openRedisStore } from "../../src/prefixes/redis-store.ts";
import { contractOnRedis } from "../contract/on-redis.ts";
import { prefixStoreContract } from "../contract/prefix-store.ts";

contractOnRedis(prefixStoreContract, openRedisStore);
