import { script } from "../prefixes/redis-scripts.ts";

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
 * KEYS: 1 user, 2 keys, 3 usage, 4 tokens
 * ARGV: 1 "keep" to keep the usage, 2 channel, 3 message
 * Returns: [1 removed or 0 there was none, names of the usage's fields, ids of the keys...]
 */
export const DELETE_USER_RECORD = script(`
local there = redis.call('EXISTS', KEYS[1])
local ids = redis.call('HKEYS', KEYS[2])
local fields = {}
redis.call('DEL', KEYS[1], KEYS[2], KEYS[4])
if ARGV[1] ~= 'keep' then
  fields = redis.call('HKEYS', KEYS[3])
  redis.call('DEL', KEYS[3])
end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return { there, fields, ids }
`);

/**
 * KEYS: 1 user, 2 usage
 * ARGV: 1 "built-in": needs no record; then pairs of field and amount
 * Returns: 1 added, 0 there is no such user
 */
export const ADD_USAGE = script(`
if ARGV[1] ~= 'built-in' and redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
for i = 2, #ARGV, 2 do redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1]) end
return 1
`);
