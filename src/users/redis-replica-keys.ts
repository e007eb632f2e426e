/**
 * Names and scripts of the replica bus in Redis. All keys carry one hash tag, so that one script can reach them in a Cluster.
 *
 *   prefixd:{replicas}:alive         sorted set: replica id -> when its lease ends, milliseconds of Redis' clock
 *   prefixd:{replicas}:inbox:ID      hash: command id -> command (JSON), not yet acknowledged by the replica
 *   prefixd:{replicas}:acks:COMMAND  hash: replica id -> answer (JSON); expires
 *   prefixd:{replicas}:wake          channel: there is something in the inboxes
 */
import { createHash } from "node:crypto";
import type { RedisScript } from "../prefixes/redis-scripts.ts";

export class ReplicaKeys {
  readonly alive: string;
  readonly inboxes: string;
  readonly wake: string;
  readonly #namespace: string;

  constructor(namespace: string) {
    this.#namespace = `${namespace}:{replicas}`;
    this.alive = `${this.#namespace}:alive`;
    this.inboxes = `${this.#namespace}:inbox:`;
    this.wake = `${this.#namespace}:wake`;
  }

  inbox(replica: string): string {
    return `${this.inboxes}${replica}`;
  }

  acks(command: string): string {
    return `${this.#namespace}:acks:${command}`;
  }
}

function script(lua: string): RedisScript {
  const whole = `local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
${lua}`;
  return { lua: whole, sha: createHash("sha1").update(whole).digest("hex") };
}

/**
 * Renews a replica's lease and hands out its commands in the same instant: who holds a lease knows of every command that was
 * given before its last renewal.
 * KEYS: 1 alive, 2 inbox
 * ARGV: 1 replica, 2 lease in milliseconds
 * Returns: command ids and commands in turn
 */
export const RENEW = script(`
-- First what takes no memory: once a script has written, Redis lets it through to its end, however full it is.
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
return redis.call('HGETALL', KEYS[2])
`);

/**
 * Puts a command into the inbox of every replica that may be alive. Leases long gone are struck off.
 * KEYS: 1 alive
 * ARGV: 1 command id, 2 command, 3 beginning of inbox keys, 4 channel, 5 margin in milliseconds, 6 milliseconds that keys are kept
 * Returns: the replicas
 */
export const SEND = script(`
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[5])
local replicas = redis.call('ZRANGE', KEYS[1], 0, -1)
for _, replica in ipairs(replicas) do
  redis.call('HSET', ARGV[3] .. replica, ARGV[1], ARGV[2])
  redis.call('PEXPIRE', ARGV[3] .. replica, ARGV[6])
end
redis.call('PUBLISH', ARGV[4], ARGV[1])
return replicas
`);

/**
 * A replica has carried a command out.
 * KEYS: 1 inbox, 2 acks
 * ARGV: 1 replica, 2 command id, 3 answer, 4 milliseconds that it is kept
 */
export const ACKNOWLEDGE = script(`
if redis.call('HDEL', KEYS[1], ARGV[2]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
`);

/**
 * Who has answered a command, and who of those that have not can no longer hold a lease.
 * KEYS: 1 alive, 2 acks
 * ARGV: 1 margin in milliseconds, 2.. the replicas that were told
 * Returns: for each replica its answer, or "gone", or "" while it is waited for
 */
export const COLLECT = script(`
local answers = {}
for i = 2, #ARGV do
  local answer = redis.call('HGET', KEYS[2], ARGV[i])
  if not answer then
    local ends = redis.call('ZSCORE', KEYS[1], ARGV[i])
    answer = (not ends or tonumber(ends) + ARGV[1] < now) and 'gone' or ''
  end
  answers[i - 1] = answer
end
return answers
`);

/**
 * Takes a command back from all inboxes: it names a user who is gone.
 * KEYS: 1 acks
 * ARGV: 1 command id, 2 beginning of inbox keys, 3.. replicas
 */
export const FORGET = script(`
redis.call('DEL', KEYS[1])
for i = 3, #ARGV do redis.call('HDEL', ARGV[2] .. ARGV[i], ARGV[1]) end
return 1
`);

/**
 * A replica ends in order.
 * KEYS: 1 alive, 2 inbox
 * ARGV: 1 replica
 */
export const LEAVE = script(`
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
return now
`);
