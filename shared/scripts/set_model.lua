-- Sets what an operator wants of a model: 'pause', 'drain', 'retire' or 'resume'. Nothing of it is taken from here on, or
-- workers are woken. Asked for again it changes nothing, and is written down all the same.
--
-- Returns {the state before, the state now, jobs that run, jobs that wait}.
local now = clock()
write_at_maxmemory()
local room = NAMES.room .. model
local before = redis.call('HGET', room, 'state') or 'active'
local wanted = ({pause = 'paused', drain = 'draining', retire = 'retired'})[action] or 'active'
if wanted == 'active' then
  redis.call('HDEL', room, 'state')
  clear_hold(model, 'paused')
  if redis.call('EXISTS', NAMES.waits .. model) == 1 then
    local live = live_workers(model, now, LIVE_WORKER_MS)
    for i = 1, math.max(1, math.min(live, TICKETS_AT_ONCE)) do push_ticket(queue, ticket, action .. '-' .. now .. '-' .. i, live) end
  end
else
  redis.call('HSET', room, 'state', wanted)
  set_hold(model, 'paused')
end
audit(now, by, via, 'model.' .. action, model, before == wanted and 'unchanged: ' .. wanted or before .. ' -> ' .. wanted)
return {before, wanted, redis.call('ZCARD', NAMES.running .. model), redis.call('ZCARD', NAMES.waits .. model)}
