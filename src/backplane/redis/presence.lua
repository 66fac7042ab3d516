-- Shared by join, leave and renew, to which this file is prepended. A room's presence is kept in two keys:
--   here  sorted set  folded name -> end of its lease, in milliseconds by Redis's own clock
--   who   hash        folded name -> "session by address since shown name"; and "" -> the stamp of the newest change
-- Every script gets KEYS here, who, log; ARGV[1] the room's channel, ARGV[2] "1" if expired leases may be cleared.
-- (Not right after Redis came back or was out of memory: every instance must first have time to renew its own.)

local here, who, log, channel, may_expire = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2] == '1'
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- A key overwritten by another program would make the room unusable forever. It is deleted; the instances know its
-- contents and restore them.
for key, used in pairs({[here] = redis.pcall('ZCARD', here), [who] = redis.pcall('HGET', who, '')}) do
  if type(used) == 'table' and string.find(used.err or '', '^WRONGTYPE') then
    redis.log(redis.LOG_WARNING, key .. ' is of another type and is deleted')
    redis.call('DEL', key)
  end
end

-- Session, mark, shown name and time of joining from a value of `who`.
local function parse(value)
  local session, by, since, name = string.match(value, '^(%S+) (%S+) %S+ (%d+) (.*)$')
  return session, by, name, tonumber(since)
end

-- Stamps order changes and welcomes: microseconds, but always above the last stamp, in case the clock steps back.
local function next_stamp()
  local stamp = math.max(time[1] * 1000000 + time[2], (tonumber(redis.call('HGET', who, '')) or 0) + 1)
  stamp = string.format('%.0f', stamp)
  redis.call('HSET', who, '', stamp)
  return stamp
end

-- The number of people present. Where leases may be cleared, expired ones do not count even if they are still stored.
local function count()
  if may_expire then return redis.call('ZCOUNT', here, string.format('(%.0f', now), '+inf') end
  return redis.call('ZCARD', here)
end

-- The keys live one minute longer than the last lease in them.
local function keep_keys()
  redis.call('PEXPIRE', here, LEASE + 60000)
  redis.call('PEXPIRE', who, LEASE + 60000)
end

-- Takes or restores a seat; `lease` is in milliseconds.
local function acquire(key, value, lease)
  redis.call('HSET', who, key, value)
  redis.call('ZADD', here, string.format('%.0f', now + lease), key)
end

-- Publishes a change and returns its stamp; `session` is the session that the change is about, or "-". Names contain no
-- control characters.
local function announce(session, joined, left)
  local stamp, left_here = next_stamp(), count()
  redis.call('PUBLISH', channel, table.concat({ 'p' .. stamp .. ' ' .. left_here .. ' ' .. session,
    table.concat(joined, '\t'), table.concat(left, '\t') }, '\n'))
  if left_here == 0 then redis.call('DEL', here, who) end
  return stamp
end

-- Clears up to this many expired leases; 250 take Redis about 1 ms. Whichever call clears a lease announces it, so it is
-- announced once. Returns "1" if there may be more.
local function expire(most)
  if not may_expire then return '0' end
  local keys = redis.call('ZRANGEBYSCORE', here, '-inf', string.format('%.0f', now), 'LIMIT', 0, most)
  if #keys == 0 then return '0' end
  local left = {}
  for _, value in ipairs(redis.call('HMGET', who, unpack(keys))) do
    if value then
      local _, _, name = parse(value)
      left[#left + 1] = name
    end
  end
  redis.call('HDEL', who, unpack(keys))
  redis.call('ZREM', here, unpack(keys))
  announce('-', {}, left)
  return #keys == most and '1' or '0'
end
