-- Reads part of a log, within a number of messages and of bytes. KEYS: log, gone. ARGV: XRANGE or XREVRANGE, where it begins
-- and ends, how many messages, how many bytes, and for a newcomer its `since` ("" if it has none).
-- Returns {"1" if the log has more of it, newest id, "1" if some after `since` are no longer kept, id, body, id, body, ...}.
-- What is no message of ours has an empty body.

local log, gone, command, from, to = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local limit, bytes = tonumber(ARGV[4]), tonumber(ARGV[5])
local since, reply, more, found = ARGV[6], {}, '0', 0

-- In slices, so that Redis does not gather hundreds of large entries only to leave most of them out.
repeat
  local entries = redis.call(command, log, from, to, 'COUNT', 50)
  for _, entry in ipairs(entries) do
    local fields = entry[2]
    local body = #fields == 2 and fields[1] == 'm' and #fields[2] < 32768 and fields[2] or ''
    bytes = bytes - #body
    if found == limit or bytes < 0 and found > 0 then
      more = '1'
      break
    end
    found = found + 1
    reply[#reply + 1] = entry[1]
    reply[#reply + 1] = body
    from = '(' .. entry[1]
  end
until more == '1' or #entries < 50

local last, gap = '0-0', '0'
if since then
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  last = newest and newest[1] or last
end
local function info()
  local pairs = redis.call('XINFO', 'STREAM', log)
  for i = 1, #pairs, 2 do pairs[pairs[i]] = pairs[i + 1] end
  return pairs
end
local function older(one, other)
  local ms, seq = string.match(one, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)-(%d+)$')
  ms, other_ms = tonumber(ms), tonumber(other_ms)
  return ms < other_ms or ms == other_ms and tonumber(seq) < tonumber(other_seq)
end
-- Whether the host removed this one, and nothing after it was lost to trimming since: what is trimmed is the oldest, and
-- what was trimmed before it was removed was older.
local function removed(id)
  local trimmed = redis.call('HGET', gone, id)
  if not trimmed then
    local upto, then_trimmed = string.match(redis.call('HGET', gone, 'upto') or '', '^(%S+) (.*)$')
    if upto and not older(upto, id) then trimmed = then_trimmed end
  end
  if not trimmed then return false end
  local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  if trimmed == '' or first and older(first[1], id) then return true end
  if redis.call('EXISTS', log) == 0 then return false end
  local now = info()
  return now['entries-added'] - now['length'] == tonumber(trimmed)
end
-- One exact look-up: `since` itself is still kept, so all after it is. "0-0" is before all that was ever kept, and
-- nothing is missing while nothing was trimmed.
if since == '0-0' then
  if last ~= '0-0' then
    local now = info()
    if now['entries-added'] and now['entries-added'] > now['length'] then gap = '1' end
  end
elseif since and since ~= '' then
  if redis.call('XRANGE', log, since, since)[1] then
    more = '1'
  elseif not removed(since) then
    gap = '1'
  end
end
-- Whether there are older ones than a newcomer is given, `since` included.
if since and more == '0' and redis.call('XREVRANGE', log, from, '-', 'COUNT', 1)[1] then more = '1' end
return {more, last, gap, unpack(reply)}
