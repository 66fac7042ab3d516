-- Takes a seat.
-- ARGV[3..8]: folded name, session, mark, address, shown name, and the time until which the caller waits, in
-- milliseconds. After that time this returns "late": a join delayed by the network must not take the seat from a newer
-- session of the same client.
-- ARGV[9..10]: the most people in the room (0: unlimited; at the limit this returns "full"), and "1" if the room may be
-- a new one, without people and messages (otherwise this returns "new" for such a room).
-- While its lease lasts, a name belongs to its client. The same client takes it over silently (its older session is
-- notified on the channel); any other is refused.
-- Returns {} if the name is taken, else {stamp, participants, newest id, values of `who`, whether the seat was taken
-- over, whether the room is new}, the last two as 1 or 0.
-- There are at most 100 values, joined by newlines because one string is parsed faster than a hundred.

local key, session, by, address, name = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
if now > tonumber(ARGV[8]) then return 'late' end
local value = redis.call('HGET', who, key)
local old_session, old_by, old_name, back
if value then
  old_session, old_by, old_name = parse(value)
  back = old_by == by
  local held = not may_expire or tonumber(redis.call('ZSCORE', here, key) or 0) > now
  if held and not back then return {} end
  -- After a join whose reply was late, the holder is this very session.
  if back and old_session ~= session then redis.call('PUBLISH', channel, 'k' .. old_session) end
end
local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
local people, most = count(), tonumber(ARGV[9])
local is_new = people == 0 and not newest and not back
if is_new and ARGV[10] ~= '1' then return 'new' end
if most > 0 and people >= most and not back then return 'full' end
-- Not below the time of an earlier stamp, by which an older session of the client knows when it joined: a seat always
-- goes to the newer one, even if the clock steps back.
local since = math.max(now, math.floor((tonumber(redis.call('HGET', who, '')) or 0) / 1000))
acquire(key, table.concat({session, by, address, string.format('%.0f', since), name}, ' '), LEASE)
expire(250)
local stamp
if back and old_name == name then stamp = next_stamp() else stamp = announce(session, {name}, {old_name}) end
keep_keys()

local from = may_expire and string.format('(%.0f', now) or '-inf'
local some = redis.call('ZRANGEBYSCORE', here, from, '+inf', 'LIMIT', 0, 100)
local values = {}
for _, value in ipairs(redis.call('HMGET', who, unpack(some))) do values[#values + 1] = value or nil end
newest = newest and newest[1] or '0-0'
return {stamp, count(), newest, table.concat(values, '\n'), back and 1 or 0, is_new and 1 or 0}
