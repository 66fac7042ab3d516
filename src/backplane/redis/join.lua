-- Takes a seat. ARGV[4..7]: folded name, session, client, shown name. A name whose lease runs belongs to its client:
-- the same client takes it over in silence (the older session is told on the channel), another one is refused.
-- Returns {} if the name is taken, else {stamp, participants, name, name, ...} with at most 100 shown names.

local key, session, client, name = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local value = redis.call('HGET', who, key)
local back = false
if value then
  local old_session, old_client = parse(value)
  back = old_client == client
  local held = not may_reap or tonumber(redis.call('ZSCORE', here, key) or 0) > now
  if held and not back then return {} end
  if back then redis.call('PUBLISH', channel, 'k' .. old_session) end
end
if back then sit(key, session, client, name) end
reap()
if not back then
  sit(key, session, client, name)
  announce(session, {name}, {})
end

local reply = {stamp, redis.call('ZCARD', here)}
for _, value in ipairs(redis.call('HMGET', who, unpack(redis.call('ZRANGE', here, 0, 99)))) do
  if value then
    local _, _, shown = parse(value)
    reply[#reply + 1] = shown
  end
end
return reply
