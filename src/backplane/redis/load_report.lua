-- Tells how many sessions a task holds, and hears of all. KEYS: tasks. ARGV: task, its sessions. A task that was not
-- heard of for 15 s is gone. Returns {tasks, sessions}, the caller's included.

local now = tonumber(redis.call('TIME')[1])
redis.call('HSET', KEYS[1], ARGV[1], now .. ' ' .. ARGV[2])
local told, tasks, sessions = redis.call('HGETALL', KEYS[1]), 0, 0
for i = 1, #told, 2 do
  local at, count = string.match(told[i + 1], '^(%d+) (%d+)$')
  if at and now - tonumber(at) <= 15 then
    tasks, sessions = tasks + 1, sessions + tonumber(count)
  else
    redis.call('HDEL', KEYS[1], told[i])
  end
end
redis.call('EXPIRE', KEYS[1], 60)
return {tasks, sessions}
