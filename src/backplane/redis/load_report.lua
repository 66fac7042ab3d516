-- Reports an instance's session count, and reads those of all instances.
-- KEYS: instances. ARGV: instance, its session count.
-- An instance that has not reported for 15 s is considered gone, and its entry is deleted.
-- Returns {instances, sessions}, the caller's included.

local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2])
local reports, instances, sessions = redis.call('HGETALL', KEYS[1]), 0, 0
for i = 1, #reports, 2 do
  local at, count = string.match(reports[i + 1], '^(%d+) (%d+)$')
  if at and math.abs(now - tonumber(at)) <= 15 then
    instances, sessions = instances + 1, sessions + tonumber(count)
  else
    redis.call('HDEL', KEYS[1], reports[i])
  end
end
redis.call('EXPIRE', KEYS[1], 60)
return {instances, sessions}
