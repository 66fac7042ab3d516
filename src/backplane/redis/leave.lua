-- Releases a seat at once.
-- ARGV[3..5]: folded name, session, shown name.
-- Does nothing if another session has taken the name in the meantime. If nobody has it (Redis lost its data), the room
-- is notified anyway, because other clients still show the name.

local key, session, name = ARGV[3], ARGV[4], ARGV[5]
local value = redis.call('HGET', who, key)
if value and parse(value) ~= session then return 0 end
redis.call('HDEL', who, key)
redis.call('ZREM', here, key)
announce(session, {}, {name})
return 1
