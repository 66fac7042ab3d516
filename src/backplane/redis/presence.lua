-- Shared by join, leave and renew, which are loaded with this in front. Who is in a room is kept in two keys:
--   here  sorted set  folded name -> end of its lease, milliseconds of Redis's own clock
--   who   hash        folded name -> "session client shown name"
-- Every script gets: KEYS here, who, (log); ARGV[1] the room's channel, ARGV[2] a lease's length in ms, ARGV[3] "1"
-- if lapsed leases may be cleared away. (Not while Redis has just come back: the tasks must get to renew first.)

local here, who, channel, lease, may_reap = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local time = redis.call('TIME')
local stamp = time[1] .. string.format('%06d', time[2])
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- Session, client and shown name of one value of `who`.
local function parse(value)
  return string.match(value, '^(%S+) (%S+) (.*)$')
end

local function sit(key, session, client, name)
  redis.call('HSET', who, key, session .. ' ' .. client .. ' ' .. name)
  redis.call('ZADD', here, string.format('%.0f', now + lease), key)
end

local function rise(key)
  redis.call('HDEL', who, key)
  redis.call('ZREM', here, key)
end

-- Tells the tasks; `session` is whom it is about, or "-". Names hold no control characters.
local function announce(session, joined, left)
  redis.call('PUBLISH', channel, table.concat({
    'p' .. stamp .. ' ' .. redis.call('ZCARD', here) .. ' ' .. session,
    table.concat(joined, '\t'), table.concat(left, '\t') }, '\n'))
end

-- Clears lapsed leases away, 100 at a time; whoever comes first announces them, so each is announced once.
local function reap()
  if not may_reap then return end
  local left = {}
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', here, '-inf', string.format('%.0f', now), 'LIMIT', 0, 100)) do
    local value = redis.call('HGET', who, key)
    rise(key)
    if value then
      local _, _, name = parse(value)
      left[#left + 1] = name
    end
  end
  if #left > 0 then announce('-', {}, left) end
end
