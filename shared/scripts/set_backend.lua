-- Holds one backend of a model, or lets it go. A worker that does not know it yet takes nothing until it does (take.lua).
-- `configured` are the model's backends: while all of them are held the model is.
--
-- Returns {'held' or 'active' before, the same now, jobs of the model that run, jobs that wait}.
local now = clock()
write_at_maxmemory()
local room = NAMES.room .. model
local off = redis.call('HGET', room, 'off') or ''
local was_off, is_off = has_word(off, backend), action ~= 'resume'
local left = {}
for one in string.gmatch(off, '%S+') do if one ~= backend then left[#left + 1] = one end end
if is_off then left[#left + 1] = backend end
table.sort(left)
if #left == 0 then redis.call('HDEL', room, 'off') else redis.call('HSET', room, 'off', table.concat(left, ' ')) end
hold_without_backends(model, table.concat(left, ' '), configured)
if #left > 0 then redis.call('PERSIST', room) end
if not is_off and redis.call('EXISTS', NAMES.waits .. model) == 1 then
  push_ticket(queue, ticket, action .. '-' .. now, live_workers(model, now, LIVE_WORKER_MS))
end
audit(now, by, via, 'backend.' .. action, model .. ' ' .. name, was_off == is_off and 'unchanged' or is_off and 'held' or 'active')
return {was_off and 'held' or 'active', is_off and 'held' or 'active', redis.call('ZCARD', NAMES.running .. model),
  redis.call('ZCARD', NAMES.waits .. model)}
