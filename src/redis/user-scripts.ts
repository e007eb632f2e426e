import { script } from "./prefix-scripts.ts";

/**
 * Creates a user.
 * KEYS: 1 user
 * ARGV: 1 user as JSON, 2 channel, 3 message
 * Returns: 1 created, 0 the user exists
 */
export const CREATE_USER = script(`
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
`);

/**
 * Replaces a user's record unless it has changed.
 * KEYS: 1 user
 * ARGV: 1 old user as JSON, 2 new user as JSON, 3 channel, 4 message
 * Returns: 1 replaced, 0 the record has changed
 */
export const REPLACE_USER = script(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
-- Makes room, so that it works in a Redis that is full.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
`);

/**
 * Adds an id to a list, also in a Redis that is full: its first write needs no memory.
 * KEYS: 1 sorted set
 * ARGV: 1 id
 */
export const LIST = script(`
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], 0, ARGV[1])
return 1
`);

/**
 * Adds a key to a user.
 * KEYS: 1 user, 2 keys
 * ARGV: 1 key id, 2 key as JSON, 3 maximum number of keys, 4 channel, 5 message
 * Returns: 1 added, 0 no such user, -1 too many keys
 */
export const PUT_KEY = script(`
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[3]) then return -1 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
`);

/**
 * Deletes a key.
 * KEYS: 1 keys
 * ARGV: 1 key id, 2 channel, 3 message
 * Returns: number of keys deleted
 */
export const DELETE_KEY = script(`
local removed = redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return removed
`);

/**
 * Deletes a user's other data after the record, when no more keys can be added.
 * KEYS: 1 keys, 2 usage, 3 its rows, 4 its days, 5 usage flushes, 6 tokens
 * ARGV: 1 "keep" to keep the usage, 2 channel, 3 message
 * Returns: [usage rows deleted, keys deleted]
 */
export const DELETE_USER_REST = script(`
local keys = redis.call('HLEN', KEYS[1])
local rows = 0
redis.call('DEL', KEYS[1], KEYS[5], KEYS[6])
if ARGV[1] ~= 'keep' then
  rows = redis.call('HLEN', KEYS[2]) / 6
  redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
end
redis.call('PUBLISH', ARGV[2], ARGV[3])
return { rows, keys }
`);

/**
 * Remembers deletions, of two of the same the later, and forgets old ones.
 * KEYS: 1 deletions
 * ARGV: 1 milliseconds before which deletions are forgotten; then pairs of milliseconds and hash
 */
export const NOTE_DELETIONS = script(`
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1])
for i = 2, #ARGV, 2 do
  local known = redis.call('ZSCORE', KEYS[1], ARGV[i + 1])
  if not known or tonumber(known) < tonumber(ARGV[i]) then redis.call('ZADD', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return 1
`);

/** Milliseconds that a flush's id is remembered. An unanswered flush is resent as long as Redis is reachable. */
const FLUSH_MS = 600_000;

/**
 * Adds to counters; a flush sent repeatedly counts once.
 * KEYS: 1 usage, 2 its rows, 3 its days, 4 user, 5 sorted set: flush id -> time added, milliseconds of Redis' clock
 * ARGV: 1 "built-in" if the user needs no record; 2 flush id; then per row its day, its name and six amounts
 * Returns: 1 added, now or before; 0 no such user
 */
export const ADD_USAGE = script(`
if ARGV[1] ~= 'built-in' and redis.call('EXISTS', KEYS[4]) == 0 then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- First a write that needs no memory: after a script's first write, Redis lets the rest through even when full.
redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', now - ${FLUSH_MS})
if redis.call('ZADD', KEYS[5], 'NX', now, ARGV[2]) == 0 then return 1 end
redis.call('PEXPIRE', KEYS[5], ${FLUSH_MS})
for i = 3, #ARGV, 8 do
  local day, row = ARGV[i], ARGV[i + 1]
  for c = 0, 5 do
    redis.call('HINCRBY', KEYS[1], row .. ' ' .. c, ARGV[i + 2 + c])
    redis.call('HINCRBY', KEYS[3], day .. ' ' .. c, ARGV[i + 2 + c])
  end
  redis.call('ZADD', KEYS[2], 0, row)
end
return 1
`);

/**
 * Rebuilds rows and days from the counters if an older version, which did not keep them, has added counters. Every
 * listed row has six counters, so comparing the numbers shows it. For scripts whose KEYS begin with usage, its rows,
 * its days.
 */
const LISTED = `
if redis.call('HLEN', KEYS[1]) ~= 6 * redis.call('ZCARD', KEYS[2]) then
  redis.call('DEL', KEYS[3])
  local counters = redis.call('HGETALL', KEYS[1])
  for i = 1, #counters, 2 do
    local row, day, c = string.match(counters[i], '^(([^/]*)/.*) (%d)$')
    redis.call('HINCRBY', KEYS[3], day .. ' ' .. c, counters[i + 1])
    redis.call('ZADD', KEYS[2], 0, row)
  end
end
`;

/**
 * Reads usage rows.
 * KEYS: 1 usage, 2 its rows, 3 its days
 * ARGV: 1 first and 2 last name, in ZRANGEBYLEX's format; 3 maximum number of rows
 * Returns: [name, six counters] of each row, in order
 */
export const READ_USAGE = script(`${LISTED}
local rows = {}
for i, row in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])) do
  local counters = {}
  for c = 0, 5 do counters[c + 1] = row .. ' ' .. c end
  rows[i] = { row, redis.call('HMGET', KEYS[1], unpack(counters)) }
end
return rows
`);

/**
 * Reads the sums by day.
 * KEYS: 1 usage, 2 its rows, 3 its days
 * Returns: alternating fields and counters of the days
 */
export const READ_USAGE_DAYS = script(`${LISTED}
return redis.call('HGETALL', KEYS[3])
`);
