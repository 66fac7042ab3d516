-- Renews the leases of some of a task's sessions in one room, and clears lapsed ones away. ARGV[4]: what to do with a
-- name that is gone, "1" take it again (Redis lost it), "0" give it up (this task slept, the room saw it leave).
-- ARGV[5]: ids older than this are dropped from the log. From ARGV[6] on, by fours: folded name, session, client,
-- shown name. Returns the log's newest id, how many took their names again, then for each session that lost its name:
-- its number in the list, and "1" if it is its own client that has it now, else "0".

local log, again = KEYS[3], ARGV[4] == '1'
local joined, reply = {}, {'', '0'}
local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
reply[1] = newest and newest[1] or '0-0'
if newest then redis.call('XTRIM', log, 'MINID', ARGV[5]) end

for i = 6, #ARGV, 4 do
  local key, session, client, name = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local value = redis.call('HGET', who, key)
  local holder, holders_client
  if value then holder, holders_client = parse(value) end
  if holder == session then
    redis.call('ZADD', here, string.format('%.0f', now + lease), key)
  elseif not value and again then
    sit(key, session, client, name)
    joined[#joined + 1] = name
  else
    reply[#reply + 1] = (i - 6) / 4
    reply[#reply + 1] = holders_client == client and '1' or '0'
  end
end
reply[2] = tostring(#joined)
if #joined > 0 then announce('-', joined, {}) end
reap()
return reply
