-- Stores the bans.
-- KEYS: bans, a hash: target -> its end in milliseconds by Redis's own clock.
-- ARGV: the channel for changes; "list", "add" or "lift"; for the latter two the target; for "add" the duration in ms.
-- Returns {whether a ban was lifted, now, target, end, target, end, ...}.

local bans, channel, what, target = KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local time = redis.call('TIME')
local now, lifted, last = time[1] * 1000 + math.floor(time[2] / 1000), 0, 0
if what == 'add' then redis.call('HSET', bans, target, string.format('%.0f', now + ARGV[4])) end
if what == 'lift' then lifted = redis.call('HDEL', bans, target) end

local reply, all = {lifted, string.format('%.0f', now)}, redis.call('HGETALL', bans)
for i = 1, #all, 2 do
  local ends = tonumber(all[i + 1]) or 0
  if ends > now then
    last = math.max(last, ends)
    reply[#reply + 1] = all[i]
    reply[#reply + 1] = all[i + 1]
  else
    redis.call('HDEL', bans, all[i])
  end
end
if last > 0 then redis.call('PEXPIREAT', bans, string.format('%.0f', last)) end
if what ~= 'list' then redis.call('PUBLISH', channel, what) end
return reply
