-- Removes messages for the admin API and publishes which.
-- KEYS: log, gone.
-- ARGV: the room's channel; "one", "by" or "all"; the id or the mark; for "by", the id to continue from, because a long
-- log is processed 1,000 entries at a time.
--   gone  hash  removed id -> how many entries the log had lost to trimming at that time
--               "upto" -> the last id of a removed range, and the same number
--               "recent" -> the newest of these ids again, at most 10,000 bytes of them, because there may be very many
-- Returns {the id to continue from, or "", how many were removed}.

local log, gone, channel, what, value, from = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local rest, removed, upto = '', {}, nil

if what == 'all' then
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  upto = newest and newest[1]
else
  local entries = what == 'one' and redis.call('XRANGE', log, value, value)
    or redis.call('XRANGE', log, from, '+', 'COUNT', 1000)
  -- A body starts with its sender's mark.
  local start = '{"by":"' .. value .. '"'
  for _, entry in ipairs(entries) do
    if what == 'one' or string.sub(entry[2][2], 1, #start) == start then removed[#removed + 1] = entry[1] end
  end
  if #entries == 1000 then rest = '(' .. entries[1000][1] end
end
if not upto and #removed == 0 then return {rest, 0} end

local info, trimmed = redis.call('XINFO', 'STREAM', log), ''
for i = 1, #info, 2 do info[info[i]] = info[i + 1] end
local count = upto and info['length'] or #removed
if upto then redis.call('XTRIM', log, 'MAXLEN', 0) else redis.call('XDEL', log, unpack(removed)) end

-- XDEL only marks entries as deleted: their bytes stay, also in snapshots, until all of a hundred are. So the log is written
-- again (1,000 messages of 4 kB take 30 ms), unless it is very long, or has entries of other programs: one with too many fields
-- would end this script halfway.
local left = upto and {} or info['length'] <= 10000 and redis.call('XRANGE', log, '-', '+') or {}
local ours = #left > 0
for _, entry in ipairs(left) do ours = ours and #entry[2] == 2 end
if ours then
  redis.call('DEL', log)
  for _, entry in ipairs(left) do redis.call('XADD', log, entry[1], entry[2][1], entry[2][2]) end
  redis.call('EXPIRE', log, LOG_LIFE)
end

-- The count of entries ever added is adjusted too, or the removed entries would look like a gap. After "all" the log
-- starts anew, so earlier trimming is no gap either. (Redis before 7.0 has no such count.)
if info['entries-added'] then
  local added = upto and 0 or info['entries-added'] - count
  redis.call('XSETID', log, info['last-generated-id'], 'ENTRIESADDED', added)
  trimmed = added - redis.call('XLEN', log)
else
  redis.call('XSETID', log, info['last-generated-id'])
end

if upto then
  redis.call('DEL', gone)
  redis.call('HSET', gone, 'upto', upto .. ' ' .. trimmed)
else
  local recent = (redis.call('HGET', gone, 'recent') or '') .. ' ' .. table.concat(removed, ' ')
  -- The first one that remains may not be whole.
  if #recent > 10000 then recent = string.gsub(string.sub(recent, -10000), '^%S*', '') end
  redis.call('HSET', gone, 'recent', recent)
  for _, id in ipairs(removed) do redis.call('HSET', gone, id, trimmed) end
end
redis.call('EXPIRE', gone, LOG_LIFE)
redis.call('PUBLISH', channel, 'r' .. (upto and 'u ' .. upto or 'i ' .. table.concat(removed, ' ')))
return {rest, count}
