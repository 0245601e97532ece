-- What operators look at: for each model {priority, default, flex, batch, running, live workers, oldest wait in ms,
-- ends within the last minute, what holds it, what an operator has set, held backends, oldest wait in ms without lines of
-- batches}. The tickets on its queue are asked apart (LLEN).
local now = clock()

-- The slot that began a minute ago, or before, counts by the part of it that lies within.
local function ends_lately(model)
  local now_slot, sum = now / ENDS_SLOT_MS, 0
  for _, value in ipairs(redis.call('HMGET', NAMES.room .. model, 'ends:0', 'ends:1', 'ends:2', 'ends:3')) do
    local number = tonumber(value or 0)
    local slot = math.floor(number / ENDS_SLOT)
    local within = math.min(1, slot + 4 - now_slot)
    if within > 0 then sum = sum + within * (number - slot * ENDS_SLOT) end
  end
  return math.floor(sum + 0.5)
end

local function wait_ms(id)
  local job = id and load_job(id)
  return job and math.max(0, now - (tonumber(job.admitted) or now)) or 0
end

local out = {}
for model in rows() do
  local lanes = {}
  for j, lane in ipairs({'priority', 'default', 'flex', 'batch'}) do lanes[j] = redis.call('ZCARD', lane_key(lane, model)) end
  -- Ids sort by time. Deadlines do not quite, as plain requests bring limits of their own: the oldest of the nearest
  -- thousand is the oldest of all unless a thousand others have less time left.
  local first, request = nil, nil
  local ids = redis.call('ZRANGE', NAMES.waits .. model, 0, 999)
  local lines = #ids > 0 and lanes[4] > 0 and redis.call('ZMSCORE', lane_key('batch', model), unpack(ids)) or {}
  for at, id in ipairs(ids) do
    if first == nil or id < first then first = id end
    if not lines[at] and (request == nil or id < request) then request = id end
  end
  local oldest = wait_ms(first)
  local set = redis.call('HMGET', NAMES.room .. model, 'held', 'state', 'off')
  out[#out + 1] = {lanes[1], lanes[2], lanes[3], lanes[4], redis.call('ZCARD', NAMES.running .. model),
    live_workers(model, now, LIVE_WORKER_MS), oldest, ends_lately(model), set[1] or '', set[2] or 'active', set[3] or '',
    request == first and oldest or wait_ms(request)}
end
return out
