import { createHash } from "node:crypto";

/** A Lua script and the SHA-1 by which Redis caches it. */
export interface RedisScript {
  readonly lua: string;
  readonly sha: string;
}

export function script(lua: string): RedisScript {
  return { lua, sha: createHash("sha1").update(lua).digest("hex") };
}

/**
 * Lua functions shared by the scripts. Scripts build the names of chunks themselves, since only they know how many
 * chunks an old version has; all of them are in the slot of the KEYS.
 */
export const COMMON = `-- Members of the uploads set: "new UPLOAD CHUNKS NAME" before the commit,
-- "old UPLOAD CHUNKS NAME" once replaced.
local REMOVED = -3
local function fails(entry, match, none)
  if none == '*' and entry then return true end
  if match == '' then return false end
  if not entry then return true end
  if match == '*' then return false end
  for _, digest in ipairs(cjson.decode(match)) do
    if digest == entry.meta.digest then return false end
  end
  return true
end
-- The first line of a value is the entry; up to three more lines describe sharing, and replacing a prefix keeps them.
local function decode(value)
  return cjson.decode(string.match(value, '^[^\\n]*'))
end
local function get(key, name)
  local value = redis.call('HGET', key, name)
  return value and decode(value) or nil
end
local function sharing(value)
  local _, visibility, shared, readable = string.match(value .. '\\n\\n\\n', '^([^\\n]*)\\n([^\\n]*)\\n([^\\n]*)\\n([^\\n]*)')
  return visibility, shared, readable
end
-- A value without its lists of users.
local function head(value)
  return string.match(value, '^[^\\n]*\\n?[^\\n]*')
end
-- The users with access, '=' for everyone; same as guestsOf in sharing.ts.
local function guests(value)
  local visibility, shared, readable = sharing(value)
  local set = {}
  if visibility == 'shared' then set['='] = true end
  for _, list in ipairs({ shared, readable }) do
    if list ~= '' then
      for _, user in ipairs(cjson.decode(list)) do set[user] = true end
    end
  end
  return set
end
-- Records which guests gain or lose access, so that the index (shares.ts) can follow.
local function note(unsettled, name, before, after, change)
  local old, new = before and guests(before) or {}, after and guests(after) or {}
  for guest in pairs(old) do
    if not new[guest] then redis.call('HSET', unsettled, guest .. '/' .. name, change) end
  end
  for guest in pairs(new) do
    if not old[guest] then redis.call('HSET', unsettled, guest .. '/' .. name, change) end
  end
end
-- The entries of a value of versions, each with its line.
local function entries(value)
  local all = {}
  for line in string.gmatch(value or '', '[^\\n]+') do all[#all + 1] = { line = line, entry = cjson.decode(line) } end
  return all
end
local function sum(versions)
  local total = 0
  for _, version in ipairs(versions) do total = total + version.entry.meta.bytes end
  return total
end
-- Total bytes of a user's tensors: stored with each change, counted if missing.
local function held(bytes, prefixes, versions)
  local kept = redis.call('GET', bytes)
  if kept then return tonumber(kept) end
  local total = 0
  for _, value in ipairs(redis.call('HVALS', prefixes)) do total = total + decode(value).meta.bytes end
  for _, value in ipairs(redis.call('HVALS', versions)) do total = total + sum(entries(value)) end
  return total
end
-- Formats as digits: Lua would write large numbers with an exponent.
local function keep(bytes, total) redis.call('SET', bytes, string.format('%.0f', total)) end
local function drop(base, upload, chunks)
  for i = 0, chunks - 1 do redis.call('UNLINK', base .. upload .. ':' .. i) end
end
local function track(key, kind, upload, chunks, name, ttl)
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  redis.call('ZADD', key, now + ttl, kind .. ' ' .. upload .. ' ' .. chunks .. ' ' .. name)
  if redis.call('PTTL', key) < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
end
-- Leaves a version that is no more to its readers for a while.
local function retire(uploads, base, entry, name, ttl)
  for i = 0, entry.chunks - 1 do redis.call('PEXPIRE', base .. entry.upload .. ':' .. i, ttl) end
  track(uploads, 'old', entry.upload, entry.chunks, name, ttl)
end
`;

/**
 * Announces an upload before its chunks are written, so that removing the user finds them; they expire by themselves.
 * KEYS: 1 uploads, 2 removed
 * ARGV: 1 upload id, 2 number of chunks, 3 name, 4 milliseconds until the chunks expire
 * Returns: 1, or -3 the user is removed
 */
export const BEGIN_UPLOAD = script(`${COMMON}
if redis.call('EXISTS', KEYS[2]) == 1 then return REMOVED end
track(KEYS[1], 'new', ARGV[1], ARGV[2], ARGV[3], ARGV[4])
return 1
`);

/**
 * Writes a chunk of an announced upload. Refused after a removal, so that no chunk outlives it.
 * KEYS: 1 uploads, 2 removed, 3 chunk
 * ARGV: 1 member of the uploads set, 2 bytes, 3 milliseconds until the chunk expires
 * Returns: 1, -2 the upload was not announced or is too old, -3 the user is removed
 */
export const WRITE_CHUNK = script(`${COMMON}
if redis.call('EXISTS', KEYS[2]) == 1 then return REMOVED end
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return -2 end
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
return 1
`);

/**
 * Makes an upload the current version if all its chunks exist. The old version becomes an earlier one, or if no more
 * are to be kept its chunks remain for a while for their readers. Which are kept is as in prefixes/versions.ts.
 * KEYS: 1 prefixes, 2 names, 3 uploads, 4 removed, 5 bytes, 6 unsettled (unused), 7 versions
 * ARGV: 1 name, 2 entry, 3 ifMatch (empty, * or JSON list), 4 ifNoneMatch (empty or *), 5 prefix of chunk keys,
 *       6 upload id, 7 number of chunks, 8 milliseconds that the old chunks remain, 9 channel, 10 message,
 *       11 maximum prefixes and 12 maximum bytes of the user (empty: no limit), 13 bytes of this one, 14 its digest,
 *       15 versions to keep,
 *       16 key of the training job whose result it is, in the same slot, and 17 who must hold it (absent: none)
 * Returns: 1 created, 0 replaced, -1 precondition failed, -2 chunks or the announcement missing, -3 the user is
 *          removed, -4 too many prefixes, -5 too many bytes, -6 the job is not held
 */
export const COMMIT_UPLOAD = script(`${COMMON}
if redis.call('EXISTS', KEYS[4]) == 1 then return REMOVED end
if ARGV[16] and redis.call('HGET', ARGV[16], 'holder') ~= ARGV[17] then return -6 end
-- An upload withdrawn by a removal must not come back, even if the user has been created again since.
if not redis.call('ZSCORE', KEYS[3], 'new ' .. ARGV[6] .. ' ' .. ARGV[7] .. ' ' .. ARGV[1]) then return -2 end
local old = get(KEYS[1], ARGV[1])
if fails(old, ARGV[3], ARGV[4]) then return -1 end
if ARGV[11] ~= '' and not old and redis.call('HLEN', KEYS[1]) + 1 > tonumber(ARGV[11]) then return -4 end
local before = redis.call('HGET', KEYS[1], ARGV[1])
local earlier = entries(redis.call('HGET', KEYS[7], ARGV[1]))
if old then table.insert(earlier, 1, { line = string.match(before, '^[^\\n]*'), entry = old }) end
local grown = tonumber(ARGV[13]) - (old and old.meta.bytes or 0)
local total = held(KEYS[5], KEYS[1], KEYS[7]) - sum(earlier) + ARGV[13]
if ARGV[12] ~= '' and grown > 0 and total > tonumber(ARGV[12]) then return -5 end
local kept, lines, gone = {}, {}, {}
local full = false
for _, version in ipairs(earlier) do
  local bytes = version.entry.meta.bytes
  if version.entry.meta.digest ~= ARGV[14] and not full then
    full = #kept >= tonumber(ARGV[15]) or (ARGV[12] ~= '' and total + bytes > tonumber(ARGV[12]))
  end
  if full or version.entry.meta.digest == ARGV[14] then
    gone[#gone + 1] = version.entry
  else
    kept[#kept + 1] = version
    lines[#lines + 1] = version.line
    total = total + bytes
  end
end
local new = ARGV[5] .. ARGV[6] .. ':'
for i = 0, ARGV[7] - 1 do
  if redis.call('EXISTS', new .. i) == 0 then return -2 end
end
-- First the writes that Redis may refuse when out of memory: after a script's first write, it lets the rest through.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. (before and string.match(before, '\\n.*$') or ''))
redis.call('ZADD', KEYS[2], 0, ARGV[1])
if #lines > 0 then redis.call('HSET', KEYS[7], ARGV[1], table.concat(lines, '\\n'))
elseif #earlier > 0 then redis.call('HDEL', KEYS[7], ARGV[1]) end
keep(KEYS[5], total)
for i = 0, ARGV[7] - 1 do redis.call('PERSIST', new .. i) end
redis.call('ZREM', KEYS[3], 'new ' .. ARGV[6] .. ' ' .. ARGV[7] .. ' ' .. ARGV[1])
for _, entry in ipairs(gone) do retire(KEYS[3], ARGV[5], entry, ARGV[1], ARGV[8]) end
redis.call('PUBLISH', ARGV[9], ARGV[10])
return old and 0 or 1
`);

/**
 * Makes an earlier version current, unless the prefix has changed since it was read.
 * KEYS: 1 prefixes, 2 uploads, 3 removed, 4 versions, 5 bytes
 * ARGV: 1 name, 2 value and 3 versions as read, 4 entry of the new value, 5 new versions (empty: none), 6 prefix of
 *       chunk keys, 7 milliseconds that chunks remain of versions that are no more, 8 channel, 9 message; then those
 *       versions' entries
 * Returns: 1 done, 0 the prefix has changed, -3 the user is removed
 */
export const RESTORE_VERSION = script(`${COMMON}
if redis.call('EXISTS', KEYS[3]) == 1 then return REMOVED end
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] or (redis.call('HGET', KEYS[4], ARGV[1]) or '') ~= ARGV[3] then return 0 end
local total = held(KEYS[5], KEYS[1], KEYS[4])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[4] .. (string.match(ARGV[2], '\\n.*$') or ''))
if ARGV[5] == '' then redis.call('HDEL', KEYS[4], ARGV[1]) else redis.call('HSET', KEYS[4], ARGV[1], ARGV[5]) end
for i = 10, #ARGV do
  local entry = cjson.decode(ARGV[i])
  total = total - entry.meta.bytes
  retire(KEYS[2], ARGV[6], entry, ARGV[1], ARGV[7])
end
keep(KEYS[5], total)
redis.call('PUBLISH', ARGV[8], ARGV[9])
return 1
`);

/**
 * Removes a prefix with all its bytes, including those of earlier and recently replaced versions. An upload in progress
 * continues: it counts as later.
 * KEYS: 1 prefixes, 2 names, 3 uploads, 4 removed, 5 bytes, 6 unsettled, 7 versions
 * ARGV: 1 name, 2 ifMatch, 3 ifNoneMatch, 4 prefix of chunk keys, 5 channel, 6 message, 7 change
 * Returns: 1 removed, 0 no such prefix, -1 precondition failed
 */
export const DELETE_PREFIX = script(`${COMMON}
local old = get(KEYS[1], ARGV[1])
if fails(old, ARGV[2], ARGV[3]) then return -1 end
if not old then return 0 end
local earlier = entries(redis.call('HGET', KEYS[7], ARGV[1]))
local total = held(KEYS[5], KEYS[1], KEYS[7]) - old.meta.bytes - sum(earlier)
local value = redis.call('HGET', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
note(KEYS[6], ARGV[1], value, nil, ARGV[7])
if redis.call('HLEN', KEYS[1]) > 0 then keep(KEYS[5], total) else redis.call('DEL', KEYS[5]) end
redis.call('ZREM', KEYS[2], ARGV[1])
drop(ARGV[4], old.upload, old.chunks)
redis.call('HDEL', KEYS[7], ARGV[1])
for _, version in ipairs(earlier) do drop(ARGV[4], version.entry.upload, version.entry.chunks) end
for _, set in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  local upload, chunks, name = string.match(set, '^old (%S+) (%d+) (.*)$')
  if name == ARGV[1] then
    drop(ARGV[4], upload, chunks)
    redis.call('ZREM', KEYS[3], set)
  end
end
redis.call('PUBLISH', ARGV[5], ARGV[6])
return 1
`);

/**
 * Removes all prefixes and uploads of a user, and sets a mark that refuses uploads in progress.
 * KEYS: 1 prefixes, 2 names, 3 uploads, 4 removed, 5 bytes, 6 unsettled, 7 versions
 * ARGV: 1 prefix of chunk keys, 2 channel, 3 origin, 4 user, 5 open or done, 6 milliseconds to refuse uploads, 7 change
 * Returns: [prefixes, bytes of their tensors] removed
 */
export const DELETE_USER = script(`${COMMON}
local prefixes, bytes = 0, 0
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local entry = decode(all[i + 1])
  prefixes = prefixes + 1
  bytes = bytes + entry.meta.bytes
  drop(ARGV[1], entry.upload, entry.chunks)
  redis.call('PUBLISH', ARGV[2], cjson.encode({ ARGV[3], ARGV[4], all[i] }))
end
for _, value in ipairs(redis.call('HVALS', KEYS[7])) do
  local earlier = entries(value)
  bytes = bytes + sum(earlier)
  for _, version in ipairs(earlier) do drop(ARGV[1], version.entry.upload, version.entry.chunks) end
end
for _, set in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  local upload, chunks = string.match(set, '^%S+ (%S+) (%d+) ')
  drop(ARGV[1], upload, chunks)
end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[5], KEYS[7])
redis.call('SET', KEYS[4], ARGV[5], 'PX', ARGV[6])
for i = 1, #all, 2 do note(KEYS[6], all[i], all[i + 1], nil, ARGV[7]) end
return { prefixes, bytes }
`);

/**
 * Counts a user's prefixes and their bytes.
 * KEYS: 1 prefixes, 2 bytes, 3 versions
 * Returns: [prefixes, bytes of their tensors]
 */
export const HELD = script(`${COMMON}
return { redis.call('HLEN', KEYS[1]), held(KEYS[2], KEYS[1], KEYS[3]) }
`);

/**
 * Lists some of a user's prefixes in order of name; one script, so that no change in between leaves gaps.
 * KEYS: 1 prefixes, 2 names
 * ARGV: 1 lower bound in ZRANGEBYLEX's format, 2 limit
 * Returns: the values, without their lists of users
 */
export const LIST_PREFIXES = script(`${COMMON}
local heads = {}
for i, name in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], '+', 'LIMIT', 0, ARGV[2])) do
  heads[i] = head(redis.call('HGET', KEYS[1], name))
end
return heads
`);
