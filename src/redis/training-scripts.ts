import { MOST_EVENTS, MOST_FILES, MOST_JOBS } from "../training/jobs/limits.ts";
import { script } from "./prefix-scripts.ts";

/** Milliseconds that tokens of a day are remembered. */
const TOKENS_MS = 3 * 86_400_000;

/**
 * Lua functions shared by the scripts, which build the names of jobs and blobs themselves: all are in the slot of the KEYS.
 * A blob in a record is `ID CHUNKS BYTES SHA256`.
 */
const COMMON = `
local REMOVED = -3
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
-- To be called before the first write that Redis may refuse when it is full: after it, it lets the rest through.
local function letThrough(key) redis.call('HDEL', key, '') end
local function has(job, holder)
  local held = redis.call('HMGET', job, 'holder', 'status')
  return held[1] == holder and held[2] ~= 'succeeded' and held[2] ~= 'failed' and held[2] ~= 'cancelled'
end
local function drop(base, blob)
  if blob and blob ~= '' then redis.call('UNLINK', base .. 'blob:' .. string.match(blob, '^%S+')) end
end
local function whole(arriving, key, id, chunks)
  return redis.call('ZSCORE', arriving, id) and redis.call('HLEN', key) == tonumber(chunks)
end
`;

/**
 * Announces a blob before its chunks are written, so that removing the user finds it.
 * KEYS: 1 arriving, 2 removed
 * ARGV: 1 blob id, 2 milliseconds until it expires
 * Returns: 1, or -3 the user is removed
 */
export const BEGIN_BLOB = script(`${COMMON}
if redis.call('EXISTS', KEYS[2]) == 1 then return REMOVED end
local now = clock()
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
`);

/**
 * Writes a chunk of an announced blob. Refused after a removal, so that no chunk outlives it.
 * KEYS: 1 arriving, 2 removed, 3 blob
 * ARGV: 1 blob id, 2 number, 3 bytes, 4 milliseconds until it expires
 * Returns: 1, -2 it was not announced or is too old, -3 the user is removed
 */
export const WRITE_BLOB = script(`${COMMON}
if redis.call('EXISTS', KEYS[2]) == 1 then return REMOVED end
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return -2 end
redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
redis.call('ZADD', KEYS[1], clock() + ARGV[4], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
`);

/**
 * Drops a blob that nothing refers to.
 * KEYS: 1 arriving, 2 blob
 * ARGV: 1 blob id
 */
export const DROP_BLOB = script(`
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then redis.call('UNLINK', KEYS[2]) end
return 1
`);

/**
 * Makes a blob a file of the user.
 * KEYS: 1 files, 2 bytes, 3 arriving, 4 removed, 5 blob
 * ARGV: 1 record, 2 blob id, 3 number of chunks, 4 bytes, 5 maximum bytes of the user
 * Returns: 1, -2 the blob is not whole, -3 the user is removed, -4 too many files, -5 too many bytes
 */
export const PUT_FILE = script(`${COMMON}
if redis.call('EXISTS', KEYS[4]) == 1 then return REMOVED end
if not whole(KEYS[3], KEYS[5], ARGV[2], ARGV[3]) then return -2 end
if redis.call('ZCARD', KEYS[1]) >= ${MOST_FILES} then return -4 end
if tonumber(redis.call('GET', KEYS[2]) or 0) + ARGV[4] > tonumber(ARGV[5]) then return -5 end
redis.call('ZADD', KEYS[1], 0, ARGV[1])
redis.call('INCRBY', KEYS[2], ARGV[4])
redis.call('PERSIST', KEYS[5])
redis.call('ZREM', KEYS[3], ARGV[2])
return 1
`);

/**
 * Deletes a file.
 * KEYS: 1 files, 2 bytes
 * ARGV: 1 and 2 the range of its record, 3 prefix of the user's keys
 * Returns: 1 deleted, 0 no such file
 */
export const DELETE_FILE = script(`${COMMON}
local record = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2])[1]
if not record then return 0 end
local blob, bytes = string.match(record, '^%S+ (%S+) %d+ (%d+) ')
redis.call('ZREM', KEYS[1], record)
drop(ARGV[3], blob)
if redis.call('ZCARD', KEYS[1]) == 0 then redis.call('DEL', KEYS[2]) else redis.call('DECRBY', KEYS[2], bytes) end
return 1
`);

/**
 * Creates a job, and forgets the user's oldest ended ones if there are too many.
 * KEYS: 1 jobs, 2 open, 3 tokens, 4 removed, 5 job
 * ARGV: 1 id, 2 record, 3 maximum jobs that have not ended, 4 maximum tokens a day, 5 day, 6 prefix of the user's keys
 * Returns: 1 created, -3 the user is removed, -4 too many jobs, -5 too many tokens
 */
export const CREATE_JOB = script(`${COMMON}
if redis.call('EXISTS', KEYS[4]) == 1 then return REMOVED end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[3]) then return -4 end
if tonumber(redis.call('HGET', KEYS[3], ARGV[5]) or 0) >= tonumber(ARGV[4]) then return -5 end
redis.call('HSET', KEYS[5], 'record', ARGV[2], 'status', 'queued', 'step', 0, 'tokens', 0, 'attempts', 0, 'holder', '', 'beat', 0)
redis.call('ZADD', KEYS[1], 0, ARGV[1])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
local tooMany = redis.call('ZCARD', KEYS[1]) - ${MOST_JOBS}
if tooMany > 0 then
  for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if tooMany > 0 and not redis.call('ZSCORE', KEYS[2], id) then
      redis.call('UNLINK', ARGV[6] .. 'job:' .. id, ARGV[6] .. 'events:' .. id, ARGV[6] .. 'checkpoints:' .. id)
      redis.call('ZREM', KEYS[1], id)
      tooMany = tooMany - 1
    end
  end
end
return 1
`);

/**
 * Reads a user's jobs that have not ended.
 * KEYS: 1 open, 2 tokens
 * ARGV: 1 day, 2 prefix of the user's keys
 * Returns: [tokens of the day, then for each job its id followed by alternating fields and values]
 */
export const OPEN_JOBS = script(`
local found = { tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or 0) }
for i, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local job = redis.call('HGETALL', ARGV[2] .. 'job:' .. id)
  if #job > 0 then
    table.insert(job, 1, id)
    table.insert(found, job)
  end
end
return found
`);

/**
 * Claims a job that nobody else holds, or whose holder has been seen not to renew its claim.
 * KEYS: 1 job, 2 open
 * ARGV: 1 id, 2 holder, 3 the beat that has stood still too long (empty: none)
 * Returns: alternating fields and values of the job; empty: it cannot be claimed
 */
export const CLAIM = script(`${COMMON}
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return {} end
local held = redis.call('HMGET', KEYS[1], 'holder', 'beat')
if not held[1] then return {} end
if held[1] ~= '' and held[1] ~= ARGV[2] and held[2] ~= ARGV[3] then return {} end
letThrough(KEYS[1])
redis.call('HSET', KEYS[1], 'holder', ARGV[2], 'status', 'validating_files', 'spent', 0)
redis.call('HINCRBY', KEYS[1], 'beat', 1)
redis.call('HINCRBY', KEYS[1], 'attempts', 1)
return redis.call('HGETALL', KEYS[1])
`);

/**
 * Renews a claim and tells of the job's progress.
 * KEYS: 1 job, 2 tokens
 * ARGV: 1 holder, 2 day, 3 the first day to remember, 4 tokens spent under this claim; 5 status, 6 step, 7 steps,
 *       8 tokens and 9 triggers as JSON (each empty: unchanged)
 * Returns: [1 or 0 the job is not the holder's, tokens of the day]
 */
export const PROGRESS = script(`${COMMON}
local kept = has(KEYS[1], ARGV[1])
if not kept then return { 0, tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or 0) } end
letThrough(KEYS[1])
redis.call('HINCRBY', KEYS[1], 'beat', 1)
local old = redis.call('HMGET', KEYS[1], 'spent', 'step')
local more = ARGV[4] - tonumber(old[1] or 0)
if more > 0 then
  redis.call('HSET', KEYS[1], 'spent', ARGV[4])
  redis.call('HINCRBY', KEYS[2], ARGV[2], more)
  for _, day in ipairs(redis.call('HKEYS', KEYS[2])) do
    if day < ARGV[3] then redis.call('HDEL', KEYS[2], day) end
  end
  redis.call('PEXPIRE', KEYS[2], ${TOKENS_MS})
end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'status', ARGV[5]) end
-- A job that is resumed repeats steps; only those beyond the farthest are progress.
if ARGV[6] ~= '' and tonumber(ARGV[6]) > tonumber(old[2]) then redis.call('HSET', KEYS[1], 'step', ARGV[6], 'attempts', 0) end
if ARGV[7] ~= '' then redis.call('HSET', KEYS[1], 'steps', ARGV[7]) end
if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'tokens', ARGV[8]) end
if ARGV[9] ~= '' then redis.call('HSET', KEYS[1], 'triggers', ARGV[9]) end
return { 1, tonumber(redis.call('HGET', KEYS[2], ARGV[2]) or 0) }
`);

/**
 * Lets a job wait again.
 * KEYS: 1 job
 * ARGV: 1 holder
 */
export const RELEASE = script(`${COMMON}
if not has(KEYS[1], ARGV[1]) then return 0 end
letThrough(KEYS[1])
redis.call('HSET', KEYS[1], 'holder', '', 'status', 'queued')
return 1
`);

/**
 * From now on a job cannot be cancelled.
 * KEYS: 1 job
 * ARGV: 1 holder
 * Returns: 1, or 0 the job is not the holder's
 */
export const SEAL = script(`${COMMON}
if not has(KEYS[1], ARGV[1]) then return 0 end
letThrough(KEYS[1])
redis.call('HSET', KEYS[1], 'sealed', 1)
return 1
`);

/**
 * Ends a job. Its holder stays, so that the same call made again, after a lost answer, is known.
 * KEYS: 1 job, 2 open
 * ARGV: 1 id, 2 holder, 3 status, 4 error as JSON, 5 time, 6 prefix of the user's keys
 * Returns: 1, or 0 the job is not the holder's
 */
export const END = script(`${COMMON}
local job = redis.call('HMGET', KEYS[1], 'holder', 'status', 'state')
if job[1] ~= ARGV[2] then return 0 end
if job[2] == ARGV[3] then return 1 end
if not has(KEYS[1], ARGV[2]) then return 0 end
letThrough(KEYS[1])
redis.call('HSET', KEYS[1], 'status', ARGV[3], 'error', ARGV[4], 'finishedAt', ARGV[5])
redis.call('HDEL', KEYS[1], 'state')
redis.call('ZREM', KEYS[2], ARGV[1])
drop(ARGV[6], job[3])
return 1
`);

/**
 * Cancels a job.
 * KEYS: 1 job, 2 open
 * ARGV: 1 id, 2 time, 3 prefix of the user's keys
 * Returns: 1, 0 no such job, -1 it has ended, -2 it is sealed
 */
export const CANCEL = script(`${COMMON}
local job = redis.call('HMGET', KEYS[1], 'status', 'sealed', 'state')
if not job[1] then return 0 end
if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return -1 end
if job[2] then return -2 end
letThrough(KEYS[1])
redis.call('HSET', KEYS[1], 'status', 'cancelled', 'holder', '', 'finishedAt', ARGV[2])
redis.call('HDEL', KEYS[1], 'state')
redis.call('ZREM', KEYS[2], ARGV[1])
drop(ARGV[3], job[3])
return 1
`);

/**
 * Makes a blob the state of a job, instead of the former one.
 * KEYS: 1 job, 2 arriving, 3 removed, 4 blob
 * ARGV: 1 holder, 2 record of the blob, 3 its id, 4 number of chunks, 5 prefix of the user's keys
 * Returns: 1, 0 the job is not the holder's, -2 the blob is not whole, -3 the user is removed
 */
export const KEEP_STATE = script(`${COMMON}
if redis.call('EXISTS', KEYS[3]) == 1 then return REMOVED end
if not has(KEYS[1], ARGV[1]) then return 0 end
if not whole(KEYS[2], KEYS[4], ARGV[3], ARGV[4]) then return -2 end
local old = redis.call('HGET', KEYS[1], 'state')
redis.call('HSET', KEYS[1], 'state', ARGV[2])
redis.call('PERSIST', KEYS[4])
redis.call('ZREM', KEYS[2], ARGV[3])
drop(ARGV[5], old)
return 1
`);

/**
 * Adds an event to a job that exists and does not have too many.
 * KEYS: 1 job, 2 events
 * ARGV: 1 id without its number, 2 event as JSON
 */
export const ADD_EVENT = script(`
local number = redis.call('ZCARD', KEYS[2])
if redis.call('EXISTS', KEYS[1]) == 0 or number >= ${MOST_EVENTS} then return 0 end
redis.call('ZADD', KEYS[2], 0, ARGV[1] .. string.format('%06d', number) .. ' ' .. ARGV[2])
return 1
`);

/**
 * Adds a checkpoint to a job that exists, or replaces it.
 * KEYS: 1 job, 2 checkpoints
 * ARGV: 1 record, 2 and 3 the range of its former record
 */
export const ADD_CHECKPOINT = script(`${COMMON}
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
letThrough(KEYS[1])
redis.call('ZREMRANGEBYLEX', KEYS[2], ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return 1
`);

/**
 * Deletes all of a user.
 * KEYS: 1 files, 2 bytes, 3 jobs, 4 open, 5 tokens, 6 arriving
 * ARGV: 1 prefix of the user's keys
 * Returns: [files, jobs, bytes of the files]
 */
export const DELETE_TRAINING = script(`${COMMON}
local bytes = tonumber(redis.call('GET', KEYS[2]) or 0)
local files = redis.call('ZRANGE', KEYS[1], 0, -1)
for _, record in ipairs(files) do drop(ARGV[1], string.match(record, '^%S+ (%S+)')) end
local jobs = redis.call('ZRANGE', KEYS[3], 0, -1)
for _, id in ipairs(jobs) do
  drop(ARGV[1], redis.call('HGET', ARGV[1] .. 'job:' .. id, 'state'))
  redis.call('UNLINK', ARGV[1] .. 'job:' .. id, ARGV[1] .. 'events:' .. id, ARGV[1] .. 'checkpoints:' .. id)
end
for _, blob in ipairs(redis.call('ZRANGE', KEYS[6], 0, -1)) do drop(ARGV[1], blob) end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
return { #files, #jobs, bytes }
`);

/**
 * Strikes a user without jobs that wait or run off the list, unless one was created meanwhile.
 * KEYS: 1 users
 * ARGV: 1 user, 2 the time of their last job when they were found to have none
 */
export const STRIKE_OFF_USER = script(`
if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
`);
