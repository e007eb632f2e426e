/**
 * Names and scripts of the replica bus in Redis. All keys carry one hash tag, so that one script can reach them in a
 * Cluster.
 *
 *   prefixd:{replicas}:beats         hash: replica id (NAME/UUID) -> a word that changes with each renewal of its lease, or "left"
 *   prefixd:{replicas}:inbox:ID      hash: command id -> command (JSON), not yet acknowledged by the replica
 *   prefixd:{replicas}:acks:COMMAND  hash: replica id -> answer (JSON); expires
 *   prefixd:{replicas}:wake          channel: there is something in the inboxes
 */
import { createHash } from "node:crypto";
import type { RedisScript } from "./prefix-scripts.ts";

export class ReplicaKeys {
  readonly beats: string;
  readonly inboxes: string;
  readonly wake: string;
  readonly #namespace: string;

  constructor(namespace: string) {
    this.#namespace = `${namespace}:{replicas}`;
    this.beats = `${this.#namespace}:beats`;
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

const script = (lua: string): RedisScript => ({ lua, sha: createHash("sha1").update(lua).digest("hex") });

/**
 * Renews a replica's lease and delivers its commands atomically: the holder of a lease knows every command given before
 * its last renewal.
 * KEYS: 1 beats, 2 inbox
 * ARGV: 1 replica, 2 beat
 * Returns: replicas and beats in turn; command ids and commands in turn
 */
export const RENEW = script(`
-- First a write that needs no memory: after a script's first write, Redis lets the rest through even when full.
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return {redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
`);

/**
 * Puts a command into the inbox of every replica that has not left.
 * KEYS: 1 beats
 * ARGV: 1 command id, 2 command, 3 prefix of inbox keys, 4 channel, 5 milliseconds to keep keys, 6 the beat of those
 * that have left, 7.. replicas to address even if Redis has lost their beat
 * Returns: replicas and beats in turn
 */
export const SEND = script(`
-- As above.
redis.call('HDEL', KEYS[1], '')
local function tell(replica)
  redis.call('HSET', ARGV[3] .. replica, ARGV[1], ARGV[2])
  redis.call('PEXPIRE', ARGV[3] .. replica, ARGV[5])
end
local beats = redis.call('HGETALL', KEYS[1])
for i = 1, #beats, 2 do
  if beats[i + 1] ~= ARGV[6] then tell(beats[i]) end
end
for i = 7, #ARGV do tell(ARGV[i]) end
redis.call('PUBLISH', ARGV[4], ARGV[1])
return beats
`);

/**
 * Acknowledges an executed command.
 * KEYS: 1 inbox, 2 acks
 * ARGV: 1 replica, 2 command id, 3 answer, 4 milliseconds to keep it
 */
export const ACKNOWLEDGE = script(`
if redis.call('HDEL', KEYS[1], ARGV[2]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
return 1
`);

/**
 * Collects the answers to a command.
 * KEYS: 1 beats, 2 acks
 * ARGV: the replicas addressed
 * Returns: replicas and beats in turn; then each addressed replica's answer, or ""
 */
export const COLLECT = script(`
local answers = {}
for i = 1, #ARGV do answers[i] = redis.call('HGET', KEYS[2], ARGV[i]) or '' end
return {redis.call('HGETALL', KEYS[1]), answers}
`);

/**
 * Withdraws a command from all inboxes, because it names a user who is gone.
 * KEYS: 1 acks
 * ARGV: 1 command id, 2 prefix of inbox keys, 3.. replicas
 */
export const FORGET = script(`
redis.call('DEL', KEYS[1])
for i = 3, #ARGV do redis.call('HDEL', ARGV[2] .. ARGV[i], ARGV[1]) end
return 1
`);

/**
 * A replica leaves in an orderly way.
 * KEYS: 1 beats, 2 inbox
 * ARGV: 1 replica, 2 the beat that marks it as gone
 */
export const LEAVE = script(`
redis.call('DEL', KEYS[2])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
`);

/**
 * Removes a replica and its inbox, unless its beat has changed.
 * KEYS: 1 beats, 2 inbox
 * ARGV: 1 replica, 2 its beat
 */
export const STRIKE_OFF = script(`
local beat = redis.call('HGET', KEYS[1], ARGV[1])
if beat and beat ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
return 1
`);
