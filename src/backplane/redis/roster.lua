-- Who is in a room, all of them. KEYS: who. Returns {stamp, name, name, ...}; see presence.lua.

local time = redis.call('TIME')
local reply = {time[1] .. string.format('%06d', time[2])}
for _, value in ipairs(redis.call('HVALS', KEYS[1])) do
  reply[#reply + 1] = string.match(value, '^%S+ %S+ (.*)$')
end
return reply
