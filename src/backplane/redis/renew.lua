-- Renews the leases of some of an instance's sessions in one room, clears expired ones, and trims the log.
-- ARGV[3]: what to do with missing seats: "1" restores them (Redis lost them), "0" gives them up (this instance was
-- suspended, and the room saw them leave).
-- ARGV[4]: the lease, in milliseconds.
-- From ARGV[5] on, in pairs: folded name, and the value that `who` should have for it.
-- Returns {newest id, number of seats restored, "1" if more leases are to be cleared, "1" if the log took too many bytes,
-- then for each session that lost its seat: its index in the list, and "1" if its own client holds the name now, else "0"}.

local again, keys, scores, joined, lost = ARGV[3] == '1', {}, {}, {}, {}
for i = 5, #ARGV, 2 do keys[#keys + 1] = ARGV[i] end
local lease_end = string.format('%.0f', now + ARGV[4])
local stored = #keys > 0 and redis.call('HMGET', who, unpack(keys)) or {}
for number, value in ipairs(stored) do
  local key, own = keys[number], ARGV[number * 2 + 4]
  if value == own then
    scores[#scores + 1] = lease_end
    scores[#scores + 1] = key
  else
    local session, by, name, since = parse(own)
    local held_session, holder, _, held_since = parse(value or '')
    if not value and again then joined[#joined + 1] = name end
    -- Its own value can differ only in the time of joining: join.lua stores the clock, and the instance takes the time
    -- from the stamp, which may be later. If an older session of the same client holds the name, Redis has lost the
    -- take-over by this session.
    if not value and again or holder == by and (held_session == session or held_since < since) then
      acquire(key, own, ARGV[4])
    else
      lost[#lost + 1] = number - 1
      lost[#lost + 1] = holder == by and '1' or '0'
    end
  end
end
if #scores > 0 then redis.call('ZADD', here, unpack(scores)) end
if #joined > 0 then announce('-', joined, {}) end
-- Many, because the next call is a round trip away.
local more = expire(1000)
keep_keys()

local newest, was_large = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1], '0'
if newest then
  redis.call('EXPIRE', log, LOG_LIFE)
  redis.call('XTRIM', log, 'MINID', string.format('%.0f', now - LOG_LIFE * 1000))
  redis.call('XTRIM', log, 'MAXLEN', KEEP)
  -- A message takes at most 20 KiB (the text may consist of characters that JSON escapes), so short logs need no check of
  -- their size. A tenth is trimmed at a time.
  local length = redis.call('XLEN', log)
  while length * 20480 > KEEP_BYTES and redis.call('MEMORY', 'USAGE', log, 'SAMPLES', 0) > KEEP_BYTES do
    was_large = '1'
    length = math.floor(length * 0.9)
    redis.call('XTRIM', log, 'MAXLEN', length)
  end
end
return {newest and newest[1] or '0-0', #joined, more, was_large, unpack(lost)}
