-- Completes the `welcome` of a client that resumes, or that finds the newest message gone, after the log was read.
-- KEYS: log, gone.
-- ARGV: the client's `since` ("" if none), and the newest id when the seat was taken.
-- Returns whether that newest message was removed; whether messages after `since` are no longer kept; and whether the log has
-- `since` or something older; each as 1 or 0. Then what a page may still show: the newest removed ids, and the last id of a
-- removed range.

local log, gone, since, known = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
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
  if trimmed == '' or first and older(first[1], id) then return true end
  if redis.call('EXISTS', log) == 0 then return false end
  local now = info()
  return now['entries-added'] - now['length'] == tonumber(trimmed)
end

local gap, has_older = false, false
-- One exact look-up: if `since` is still in the log, so is everything after it. "0-0" precedes every message, so
-- nothing is missing if nothing was ever trimmed.
if since == '0-0' then
  if first then
    local now = info()
    gap = now['entries-added'] and now['entries-added'] > now['length']
  end
elseif since ~= '' then
  gap = not redis.call('XRANGE', log, since, since)[1] and not removed(since)
  has_older = first and not older(since, first[1])
end
local recent, upto = redis.call('HGET', gone, 'recent') or '', redis.call('HGET', gone, 'upto') or ''
return {removed(known) and 1 or 0, gap and 1 or 0, has_older and 1 or 0, recent, string.match(upto, '^%S*')}
