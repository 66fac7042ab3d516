-- Keeps a message and publishes it in one step, so that the channel has the order of the log.
-- KEYS: log, and the key of the message's ref if it has one.
-- ARGV: channel, body, the newest millisecond in this room known to the sender's instance ("0" if none).
-- Returns the message's id, or {id, body} of the first message with this ref.
-- This runs once per message, and each call to Redis costs about as much as the rest of the script. A message to a long
-- log normally needs three.

local call, log, ref, body, known = redis.call, KEYS[1], KEYS[2], ARGV[2], ARGV[3]
local id = call('XADD', log, 'MAXLEN', '~', KEEP, '*', 'm', body)

if ref and not call('SET', ref, id, 'NX', 'EX', REF_LIFE) then
  -- The ref is known: undo the new entry, and correct the count of entries ever added, by which gaps are detected.
  call('XDEL', log, id)
  local info = call('XINFO', 'STREAM', log)
  for i = 1, #info, 2 do
    if info[i] == 'entries-added' then call('XSETID', log, id, 'ENTRIESADDED', info[i + 1] - 1) end
  end
  id = call('GET', ref)
  local entry = call('XRANGE', log, id, id)[1]
  return {id, entry and entry[2][2] or body}
end

-- Redis restarted without its newest data and its clock is behind: the id must exceed those that clients have seen.
-- Both start with 13 digits, so comparing them as text is correct.
if id < known then
  call('XDEL', log, id)
  id = call('XADD', log, string.format('%.0f-0', known + 1), 'm', body)
  if ref then call('SET', ref, id, 'EX', REF_LIFE) end
end

if EXACT then call('XTRIM', log, 'MAXLEN', KEEP) end
-- From then on, the heartbeats of instances with people in the room extend the log's expiry.
if known == '0' then call('EXPIRE', log, LOG_LIFE) end
call('PUBLISH', ARGV[1], 'm' .. id .. '\n' .. body)
return id
