/** Scripts of sharing, and of its index (shares.ts). */
import { COMMON, script } from "./prefix-scripts.ts";

/**
 * Lua function: a write without effect to a hash. A script whose first write needs no memory works in a Redis that is
 * full, as what takes something away must.
 */
const BEGIN_WITHOUT_ROOM = "local function beginWithoutRoom(hash) redis.call('HDEL', hash, '') end";

/**
 * Changes a prefix's sharing.
 * KEYS: 1 prefixes, 2 unsettled
 * ARGV: 1 name, 2 ifMatch, 3 ifNoneMatch; then, each unchanged if empty, 4 visibility, 5 JSON list of users who may use
 *       it, 6 JSON list of users who may read it; 7 channel, 8 message, 9 change
 * Returns: the new value, 0 no such prefix, -1 precondition failed
 */
export const PATCH_SHARING = script(`${COMMON}${BEGIN_WITHOUT_ROOM}
local old = get(KEYS[1], ARGV[1])
if fails(old, ARGV[2], ARGV[3]) then return -1 end
if not old then return 0 end
local before = redis.call('HGET', KEYS[1], ARGV[1])
local lines = { string.match(before, '^[^\\n]*'), sharing(before) }
for i = 2, 4 do
  if ARGV[i + 2] ~= '' then lines[i] = ARGV[i + 2] end
end
local value = table.concat(lines, '\\n')
local had, gains = guests(before), false
for guest in pairs(guests(value)) do gains = gains or not had[guest] end
if not gains then beginWithoutRoom(KEYS[2]) end
redis.call('HSET', KEYS[1], ARGV[1], value)
note(KEYS[2], ARGV[1], before, value, ARGV[9])
redis.call('PUBLISH', ARGV[7], ARGV[8])
return value
`);

/**
 * Removes a user from a prefix's lists.
 * KEYS: 1 prefixes, 2 unsettled
 * ARGV: 1 name, 2 user, 3 channel, 4 message, 5 change
 */
export const STRIKE_OFF = script(`${COMMON}${BEGIN_WITHOUT_ROOM}
local before = redis.call('HGET', KEYS[1], ARGV[1])
if not before or not guests(before)[ARGV[2]] then return 0 end
local lines = { string.match(before, '^[^\\n]*'), sharing(before) }
for i = 3, 4 do
  if lines[i] ~= '' then
    local rest = {}
    for _, user in ipairs(cjson.decode(lines[i])) do
      if user ~= ARGV[2] then rest[#rest + 1] = cjson.encode(user) end
    end
    lines[i] = '[' .. table.concat(rest, ',') .. ']'
  end
end
local value = table.concat(lines, '\\n')
beginWithoutRoom(KEYS[2])
redis.call('HSET', KEYS[1], ARGV[1], value)
note(KEYS[2], ARGV[1], before, value, ARGV[5])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
`);

/**
 * Updates a guest's index from records that were read after its count of changes. If something was added in between,
 * removes nothing.
 * KEYS: 1 shared, 2 shared-changes, 3 removed, all of the guest
 * ARGV: 1 count of changes as read (empty: none), 2 number of members to add; then members to add and to remove
 * Returns: 1 done, 0 something was added in between: nothing was removed, -3 the guest is removed: nothing was added
 */
export const SETTLE = script(`
local unchanged = (redis.call('GET', KEYS[2]) or '') == ARGV[1]
local removed = redis.call('EXISTS', KEYS[3]) == 1
local added = tonumber(ARGV[2])
if unchanged then
  for i = 3 + added, #ARGV do redis.call('ZREM', KEYS[1], ARGV[i]) end
end
if added > 0 then
  if removed then return -3 end
  for i = 3, 2 + added do redis.call('ZADD', KEYS[1], 0, ARGV[i]) end
  redis.call('INCR', KEYS[2])
end
return unchanged and 1 or 0
`);

/**
 * Deletes settled notes, unless they have changed again.
 * KEYS: 1 unsettled
 * ARGV: pairs of field and change
 */
export const CROSS_OFF = script(`
for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', KEYS[1], ARGV[i]) end
end
return 1
`);

/**
 * A prefix's list entry for a user who is not its owner; access as in sharing.ts.
 * KEYS: 1 prefixes
 * ARGV: 1 name, 2 user
 * Returns: [the value without the sharing lists, read or use]; nothing if the user may not use it
 */
export const SHOW_SHARED = script(`${COMMON}
local value = redis.call('HGET', KEYS[1], ARGV[1])
if not value then return nil end
local visibility, shared, readable = sharing(value)
local function has(list)
  for _, user in ipairs(list == '' and {} or cjson.decode(list)) do
    if user == ARGV[2] then return true end
  end
  return false
end
if has(readable) then return { head(value), 'read' } end
if visibility == 'shared' or has(shared) then return { head(value), 'use' } end
return nil
`);
