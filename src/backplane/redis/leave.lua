-- Gives a seat back at once. ARGV[4..6]: folded name, session, shown name. Nothing happens if the name is another
-- session's by now. If nobody has it (Redis lost its data), the room is told all the same: others still show the name.

local key, session, name = ARGV[4], ARGV[5], ARGV[6]
local value = redis.call('HGET', who, key)
if value and parse(value) ~= session then return 0 end
rise(key)
announce(session, {}, {name})
return 1
