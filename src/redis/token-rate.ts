import { createHash } from "node:crypto";
import { RedisUserKeys } from "./user-keys.ts";
import { MemoryTokenBuckets, WINDOW_SECONDS, type Spending, type TokenBuckets } from "../users/token-rate.ts";

/** Runs scripts; implemented by RedisConnection. */
export interface ScriptRunner {
  run(
    script: { readonly lua: string; readonly sha: string },
    keys: readonly string[],
    args: readonly (string | number)[],
  ): Promise<unknown>;
}

/**
 * KEYS: 1 hash of a user's bucket: spent (tokens), at (milliseconds of Redis' clock)
 * ARGV: 1 tokens per minute, 2 tokens, 3 "admit" or "charge"
 * Returns: [1 added or 0 the bucket is full, tokens in it as a string]
 */
const LUA = `local limit, tokens = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local rate = limit / ${WINDOW_SECONDS * 1000}
local bucket = redis.call('HMGET', KEYS[1], 'spent', 'at')
-- Redis' clock may step back: then nothing has drained.
local elapsed = math.max(0, now - (tonumber(bucket[2]) or now))
local spent = math.max(0, (tonumber(bucket[1]) or 0) - elapsed * rate)
if ARGV[3] == 'admit' and spent >= limit then return { 0, tostring(spent) } end
spent = math.max(0, spent + tokens)
if spent == 0 then
  redis.call('DEL', KEYS[1])
else
  redis.call('HSET', KEYS[1], 'spent', string.format('%.6f', spent), 'at', now)
  redis.call('PEXPIRE', KEYS[1], math.ceil(spent / rate) + 1000)
end
return { 1, string.format('%.6f', spent) }
`;

const SCRIPT = { lua: LUA, sha: createHash("sha1").update(LUA).digest("hex") };

/** Milliseconds without trying Redis after a failure, so that requests do not wait for its time-out one by one. */
const AWAY_MS = 1000;

/**
 * Buckets shared by replicas, in `prefixd:{user}:tokens`; a drained one expires. While Redis is away each replica
 * counts alone, so a user may get its limit once per replica; what was spent then is not reported to Redis afterwards.
 */
export class RedisTokenBuckets implements TokenBuckets {
  readonly #redis: ScriptRunner;
  readonly #keys: RedisUserKeys;
  /** This replica's own counts, always kept for when Redis goes away. */
  readonly #local = new MemoryTokenBuckets();
  #awayUntil = 0;

  constructor(redis: ScriptRunner, namespace = "prefixd") {
    this.#redis = redis;
    this.#keys = new RedisUserKeys(namespace);
  }

  async admit(user: string, limit: number, tokens: number): Promise<Spending> {
    const shared = await this.#run(user, limit, tokens, "admit");
    if (shared === null) return this.#local.admit(user, limit, tokens);
    if (shared.admitted) await this.#local.charge(user, limit, tokens);
    return shared;
  }

  async charge(user: string, limit: number, tokens: number): Promise<void> {
    await this.#local.charge(user, limit, tokens);
    await this.#run(user, limit, tokens, "charge");
  }

  async #run(user: string, limit: number, tokens: number, what: "admit" | "charge"): Promise<Spending | null> {
    if (performance.now() < this.#awayUntil) return null;
    try {
      const [done, spent] = (await this.#redis.run(SCRIPT, [this.#keys.tokens(user)], [limit, tokens, what])) as [
        number,
        string,
      ];
      return { admitted: done === 1, spent: Number(spent) };
    } catch {
      this.#awayUntil = performance.now() + AWAY_MS;
      return null;
    }
  }
}
