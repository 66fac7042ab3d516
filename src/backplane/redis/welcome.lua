-- Reads the log for the `welcome` of a client that resumes.
-- KEYS: log, gone.
-- ARGV: the client's `since` ("" if none), the end of the range after it, the newest id when the seat was taken, and the
-- limits in messages and in bytes.
-- Returns {newest id (at least the one given, if it is only missing because it was removed), "1" if messages after `since`
-- are no longer kept, "1" if the log has `since` or something older, the newest entries after `since`}: one more than the
-- limit, if there are as many, or entries of more than that many bytes. What cannot be a message has no fields.

local log, gone, since, to, known = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local limit, bytes, from, found = tonumber(ARGV[4]), tonumber(ARGV[5]), '+', {}

-- Read in slices, so that Redis does not collect hundreds of large entries only to drop most of them.
repeat
  local entries = redis.call('XREVRANGE', log, from, to, 'COUNT', 50)
  for _, entry in ipairs(entries) do
    local fields = entry[2]
    local is_message = #fields == 2 and fields[1] == 'm' and #fields[2] < 32768
    found[#found + 1] = is_message and entry or {entry[1], {}}
    bytes = bytes - (is_message and #fields[2] or 0)
    from = '(' .. entry[1]
    if #found > limit or bytes < 0 then break end
  end
until #entries < 50 or #found > limit or bytes < 0

local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
local last, gap, older_ones = newest and newest[1] or '0-0', '0', '0'
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
-- Whether this message was removed through the admin API and nothing after it has been trimmed since: trimming takes
-- the oldest entries, and those trimmed before the removal were older.
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
-- The newest message may have been removed since the seat was taken. Only a server that lags behind lacks it otherwise.
if older(last, known) and removed(known) then last = known end
-- One exact look-up: if `since` is still in the log, so is everything after it. "0-0" precedes every message, so
-- nothing is missing if nothing was ever trimmed.
if since == '0-0' then
  if last ~= '0-0' then
    local now = info()
    if now['entries-added'] and now['entries-added'] > now['length'] then gap = '1' end
  end
elseif since ~= '' then
  if redis.call('XRANGE', log, since, since)[1] then
    older_ones = '1'
  elseif not removed(since) then
    gap = '1'
  end
end
if older_ones == '0' and redis.call('XREVRANGE', log, from, '-', 'COUNT', 1)[1] then older_ones = '1' end
return {last, gap, older_ones, found}
