-- What operators look at. ARGV: model...
-- Returns for each model {priority, default, flex, batch, running, live workers, oldest wait in ms, every_ms}; the
--         tickets on its queue are asked apart (LLEN)
local now = clock()
local out = {}
for i, model in ipairs(ARGV) do
  local oldest, lanes = 0, {}
  for j, lane in ipairs({'priority', 'default', 'flex', 'batch'}) do lanes[j] = redis.call('ZCARD', lane_key(lane, model)) end
  -- One model's deadlines are in the order of admission.
  local first = redis.call('ZRANGE', NAMES.waits .. model, 0, 0)[1]
  local admitted = first and redis.call('HGET', NAMES.job .. first, 'admitted')
  if admitted then oldest = math.max(0, now - tonumber(admitted)) end
  out[i] = {lanes[1], lanes[2], lanes[3], lanes[4], redis.call('ZCARD', NAMES.running .. model),
    live_workers(model, now, 6000), oldest, redis.call('HGET', NAMES.room .. model, 'every_ms') or '0'}
end
return out
