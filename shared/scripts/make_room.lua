-- Hands running batch work back to its queue, uncounted, for jobs of higher lanes that have waited too long for a slot: one
-- for each of them, the youngest first, as least work is lost with it. Never what has published.
--
--   state     who moves it      to
--   running   make_room         waiting where it stood                            here
--
-- Its workers hear of it on the channel. Returns after how many ms it is time to look again; -1: never, as things stand.
local now = clock()
concurrency = places_now(model, concurrency, 0)
local batch_key = NAMES.batch_running .. model
local running, batch = redis.call('ZCARD', NAMES.running .. model), redis.call('SCARD', batch_key)
if batch == 0 or redis.call('HEXISTS', NAMES.room .. model, 'held') == 1 then return -1 end
local open = math.max(0, concurrency - running)

-- Whoever is behind as many as could be served now is not looked at.
local due, soonest, last = 0, nil, math.min(open + batch, MOST_MOVED) - 1
for _, lane in ipairs({'priority', 'default', 'flex'}) do
  for _, id in ipairs(redis.call('ZRANGE', lane_key(lane, model), 0, last)) do
    local job = load_job(id)
    if job then
      local left = math.min(job.admitted + patience_ms - now, patience_ms)
      if left <= 0 then due = due + 1 else soonest = math.min(soonest or left, left) end
    end
  end
end

local youngest = {}
if due > open then
  for _, id in ipairs(redis.call('SRANDMEMBER', batch_key, MOST_LOOKED)) do
    local v = redis.call('HMGET', NAMES.job .. id, 'state', 'cancelled', 'taken')
    if v[1] == 'running' and v[2] ~= '1' and redis.call('LLEN', NAMES.log .. id) == 0 then
      youngest[#youngest + 1] = {id, tonumber(v[3]) or 0}
    end
  end
  table.sort(youngest, function(a, b) return a[2] > b[2] or (a[2] == b[2] and a[1] > b[1]) end)
end

local told = {}
for i = 1, math.min(due - open, #youngest) do
  local id = youngest[i][1]
  local job = load_job(id)
  if job then
    told[#told + 1] = id .. ' ' .. job.attempt
    wait_again(id, job, now, math.max(0, job.tries - 1))
  end
end
if #told > 0 then
  redis.call('PUBLISH', NAMES.crowd, 'b ' .. table.concat(told, ' '))
  push_ticket(queue, ticket, 'room-' .. now, live_workers(model, now, LIVE_WORKER_MS))
end
if (due > open and #youngest or batch) == #told then return -1 end
-- A slot that was made may go to somebody who has come since: whoever is due is looked after until it has one.
return due > 0 and math.max(1, math.floor(patience_ms / 4)) or soonest or -1
