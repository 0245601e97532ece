-- Moves the best waiting jobs of a model into its running set, each under a lease and a new attempt.
-- ARGV: model, nonce, free, mine, surplus ('1': more than this worker's fair part), concurrency, batch_reserve,
--       lease_ms, timeout_wire, weights of priority, default, flex, batch, awake_ms, queue, ticket
-- awake_ms > 0 is the worker's promise to look again within that time; it stands only while it leaves nothing behind
-- Returns {now, more, id, attempt, admitted_ms, meta, body or false, ...}: more = 1 when jobs are left for free slots
local model, nonce, free, mine = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local concurrency, reserve, lease = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local now = clock()
local out = {now, 0}
if redis.call('EXISTS', NAMES.hold) == 1 then return out end
local running_key = NAMES.running .. model
local running = redis.call('ZCARD', running_key)
local n = math.min(free, concurrency - running)
if n > 0 and ARGV[5] ~= '1' then
  local live = math.max(1, live_workers(model, now, 6000))
  n = math.min(n, math.ceil(concurrency / live) - mine)
end

local room = NAMES.room .. model
local lanes = {'priority', 'default', 'flex', 'batch'}
local weights, size, pass = {}, {}, {}
for i, lane in ipairs(lanes) do
  weights[lane] = tonumber(ARGV[9 + i])
  size[lane] = redis.call('ZCARD', lane_key(lane, model))
end
local batch = (reserve > 0 and size.batch > 0) and redis.call('SCARD', NAMES.batch .. model) or 0
local passes = redis.call('HMGET', room, 'pass:priority', 'pass:default', 'pass:flex', 'pass:batch', 'pass')
for i, lane in ipairs(lanes) do pass[lane] = tonumber(passes[i] or 0) end

-- Weighted turns (stride scheduling): the lane with the smallest pass goes next and moves on by 1 / weight.
local function next_lane()
  local best = nil
  for _, lane in ipairs(lanes) do
    local open = size[lane] > 0 and (lane ~= 'batch' or batch + reserve < concurrency)
    if open and (best == nil or pass[lane] < pass[best]) then best = lane end
  end
  return best
end

local alive, judged = {}, owners_are_judged(now)
local function is_alive(owner)
  if owner == '' or not judged then return true end
  if alive[owner] == nil then alive[owner] = redis.call('EXISTS', NAMES.owner .. owner) == 1 end
  return alive[owner]
end

local taken, looked, present, moved = 0, 0, nil, {}
while taken < n and looked < n + 200 do
  local lane = next_lane()
  if not lane then break end
  looked = looked + 1
  local popped = redis.call('ZPOPMIN', lane_key(lane, model))
  size[lane] = size[lane] - 1
  local id, tag = popped[1], popped[2]
  redis.call('ZREM', NAMES.waits .. model, id)
  local job = load_job(id)
  if job then
    count_waiting(job, -1)
    if job.keep ~= '1' and not is_alive(job.owner) then
      finish(id, job, now, 0)
    elseif job.deadline and tonumber(job.deadline) <= now then
      fail(id, job, now, ARGV[9], 60000)
    else
      local tries = job.tries + 1
      local attempt = tries .. '.' .. nonce
      redis.call('HSET', NAMES.job .. id, 'state', 'running', 'attempt', attempt, 'tries', tries)
      redis.call('ZADD', running_key, now + lease, id)
      if lane == 'batch' then
        batch = batch + 1
        if redis.call('SADD', NAMES.batch .. model, id) == 1 and batch == 1 then redis.call('PEXPIRE', NAMES.batch .. model, DAY) end
      end
      local body = false
      if tonumber(job.bytes) <= 65536 then body = redis.call('GET', NAMES.body .. id) end
      local at = #out
      out[at + 1], out[at + 2], out[at + 3], out[at + 4], out[at + 5] = id, attempt, job.admitted, job.meta, body
      taken, running = taken + 1, running + 1
      present = pass[lane]
      pass[lane] = pass[lane] + 1 / weights[lane]
      moved[lane] = tag
    end
    -- An empty lane resets its clock, so that no tenant pays for work of the past.
    if size[lane] == 0 then redis.call('DEL', tags_key(lane, model)); moved[lane] = moved[lane] and '' end
  end
end
for lane, tag in pairs(moved) do
  redis.call('HSET', room, 'pass', present, 'pass:' .. lane, pass[lane])
  if tag ~= '' then redis.call('HSET', tags_key(lane, model), ':clock', tag) end
end
if present then
  -- While the reserve keeps batch work out it saves up no turns, just as an empty lane does not.
  if batch + reserve >= concurrency and pass.batch < present then redis.call('HSET', room, 'pass:batch', present) end
  if not passes[5] then redis.call('PEXPIRE', room, DAY) end
  if running == taken then redis.call('PEXPIRE', running_key, DAY) end
end
if running < concurrency and next_lane() then out[2] = 1 end
local awake, awake_key = tonumber(ARGV[14]), NAMES.awake .. model
if awake > 0 and out[2] == 0 then redis.call('SET', awake_key, '1', 'PX', awake)
elseif redis.call('DEL', awake_key) == 1 and out[2] == 1 then
  push_ticket(ARGV[15], ARGV[16], 'take-' .. now, live_workers(model, now, 6000))
end
publish_frames()
return out
