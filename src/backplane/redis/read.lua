-- Reads a room's log for a newcomer. KEYS: log. ARGV: since ("" if there is none), how many at the most.
-- Returns {newest id, "1" if there are older ones than the first returned, "1" if some after since are no longer
-- kept, id, body, id, body, ...}, newest first.

local log, since, limit = KEYS[1], ARGV[1], tonumber(ARGV[2])
local found = redis.call('XREVRANGE', log, '+', since == '' and '-' or '(' .. since, 'COUNT', limit)
local newest, older, gap = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1], '0', '0'

if newest then
  local first = found[#found] and '(' .. found[#found][1] or '+'
  if redis.call('XREVRANGE', log, first, '-', 'COUNT', 1)[1] then older = '1' end
end
-- One exact look-up: `since` itself is still kept, so all after it is. "0-0" is before all that was ever said, and
-- nothing is missing while nothing was trimmed.
if since == '0-0' then
  if newest then
    local info = redis.call('XINFO', 'STREAM', log)
    for i = 1, #info, 2 do info[info[i]] = info[i + 1] end
    if info['entries-added'] and info['entries-added'] > info['length'] then gap = '1' end
  end
elseif since ~= '' and not redis.call('XRANGE', log, since, since)[1] then
  gap = '1'
end

local reply = {newest and newest[1] or '0-0', older, gap}
for _, entry in ipairs(found) do
  reply[#reply + 1] = entry[1]
  reply[#reply + 1] = entry[2][2]
end
return reply
