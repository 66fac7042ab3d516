-- Keeps a message and tells the tasks, in one step, so that the order of the channel is the order of the log.
-- KEYS: log, ref. ARGV: channel, body, the newest id that the sender's task knows, messages to keep, seconds to keep
-- the log, seconds to keep the ref (0: there is none).
-- Returns {id}, or {id, body} of the first one if the ref is known.

local log, ref = KEYS[1], KEYS[2]
local channel, body, known, keep, log_life, ref_life = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

if ref_life ~= '0' then
  local id = redis.call('GET', ref)
  if id then
    local entry = redis.call('XRANGE', log, id, id)[1]
    return {id, entry and entry[2][2] or body}
  end
end

local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
local before = newest and newest[1] or '0-0'

-- Ids grow even if Redis came back without its data while its clock was behind: never at or below what is known.
local id = '*'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function ms(of) return tonumber(string.match(of, '^%d+')) end
if ms(known) >= now and ms(before) < ms(known) then
  id = string.format('%.0f-0', ms(known) + 1)
end

id = redis.call('XADD', log, 'MAXLEN', keep, id, 'm', body)
redis.call('EXPIRE', log, log_life)
if ref_life ~= '0' then redis.call('SET', ref, id, 'EX', ref_life) end
-- The id before this one comes along: a task that did not get that one knows that it has a hole to fill.
redis.call('PUBLISH', channel, 'm' .. before .. ' ' .. id .. '\n' .. body)
return {id}
