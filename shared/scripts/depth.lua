-- What operators look at. ARGV: model...
-- Returns for each model {priority, default, flex, batch, running, live workers, tickets' queue is asked apart,
--                        oldest wait in ms, every_ms}
local now = clock()
local out = {}
for i, model in ipairs(ARGV) do
  local oldest = 0
  local lanes = {}
  for j, lane in ipairs({'priority', 'default', 'flex', 'batch'}) do
    lanes[j] = redis.call('ZCARD', lane_key(lane, model))
    local head = redis.call('ZRANGE', lane_key(lane, model), 0, 0)
    if head[1] then
      local admitted = redis.call('HGET', NAMES.job .. head[1], 'admitted')
      if admitted then oldest = math.max(oldest, now - tonumber(admitted)) end
    end
  end
  out[i] = {lanes[1], lanes[2], lanes[3], lanes[4], redis.call('ZCARD', NAMES.running .. model),
    live_workers(model, now, 6000), oldest, redis.call('HGET', NAMES.room .. model, 'every_ms') or '0'}
end
return out
