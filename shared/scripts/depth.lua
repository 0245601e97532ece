-- What operators look at: for each model {priority, default, flex, batch, running, live workers, oldest wait in ms,
-- every_ms}. The tickets on its queue are asked apart (LLEN).
local now = clock()
local out = {}
for model in rows() do
  local lanes = {}
  for j, lane in ipairs({'priority', 'default', 'flex', 'batch'}) do lanes[j] = redis.call('ZCARD', lane_key(lane, model)) end
  -- Ids sort by time. Deadlines do not quite, as plain requests bring limits of their own: the oldest of the nearest
  -- thousand is the oldest of all unless a thousand others have less time left.
  local first = nil
  for _, id in ipairs(redis.call('ZRANGE', NAMES.waits .. model, 0, 999)) do
    if first == nil or id < first then first = id end
  end
  local job = first and load_job(first)
  local oldest = job and math.max(0, now - (tonumber(job.admitted) or now)) or 0
  out[#out + 1] = {lanes[1], lanes[2], lanes[3], lanes[4], redis.call('ZCARD', NAMES.running .. model),
    live_workers(model, now, LIVE_WORKER_MS), oldest, redis.call('HGET', NAMES.room .. model, 'every_ms') or '0'}
end
return out
