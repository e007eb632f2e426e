import { script } from "./prefix-scripts.ts";

/**
 * KEYS: 1 user
 * ARGV: 1 user as JSON, 2 channel, 3 message
 * Returns: 1 created, 0 there is one
 */
export const CREATE_USER = script(`
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
`);

/**
 * KEYS: 1 user
 * ARGV: 1 user as JSON as it was, 2 as it is to be, 3 channel, 4 message
 * Returns: 1 changed, 0 it is another one by now
 */
export const REPLACE_USER = script(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
`);

/**
 * KEYS: 1 user, 2 keys
 * ARGV: 1 key id, 2 key as JSON, 3 channel, 4 message
 * Returns: 1 put, 0 there is no such user
 */
export const PUT_KEY = script(`
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
`);

/**
 * KEYS: 1 keys
 * ARGV: 1 key id, 2 channel, 3 message
 * Returns: how many were removed
 */
export const DELETE_KEY = script(`
local removed = redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return removed
`);

/**
 * What a user has beside the record, once that is gone and no key can be added any more.
 * KEYS: 1 keys, 2 usage, 3 tokens, 4 flushes of usage
 * ARGV: 1 "keep" to keep the usage, 2 channel, 3 message
 * Returns: [names of the usage's fields, ids of the keys...]
 */
export const DELETE_USER_REST = script(`
local ids = redis.call('HKEYS', KEYS[1])
local fields = {}
redis.call('DEL', KEYS[1], KEYS[3], KEYS[4])
if ARGV[1] ~= 'keep' then
  fields = redis.call('HKEYS', KEYS[2])
  redis.call('DEL', KEYS[2])
end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return { fields, ids }
`);

/** Milliseconds that a flush is remembered; the same one is sent again for as long as it is not answered, while Redis is reachable. */
const FLUSH_MS = 600_000;

/**
 * Adds to counters, once however often the same flush is sent.
 * KEYS: 1 user, 2 usage, 3 sorted set: flush -> when it was added, milliseconds of Redis' clock
 * ARGV: 1 "built-in": needs no record; 2 flush; then pairs of field and amount
 * Returns: 1 added, now or before; 0 there is no such user
 */
export const ADD_USAGE = script(`
if ARGV[1] ~= 'built-in' and redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- First what takes no memory: once a script has written, Redis lets it through to its end, however full it is.
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now - ${FLUSH_MS})
if redis.call('ZADD', KEYS[3], 'NX', now, ARGV[2]) == 0 then return 1 end
redis.call('PEXPIRE', KEYS[3], ${FLUSH_MS})
for i = 3, #ARGV, 2 do redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1]) end
return 1
`);
