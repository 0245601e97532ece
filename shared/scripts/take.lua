-- Moves the best waiting jobs of a model into its running set, each under a lease and a new attempt.
--
--   state     who moves it      to
--   waiting   take              running                     here
--   waiting   take              ended, past its deadline; (none), where its API processes are dead
--   running   append, release   ended, waiting, (none)
--   running   make_room         waiting, if it is batch work
--   running   sweep             waiting, ended, where its lease has run out
--
-- Returns {now, 1: jobs are left for slots that are free; 2: none is, and somebody waits behind batch work; 3: nothing
-- is taken, as the model is being started, then of each job id, attempt, when it was admitted, bytes, spec, body}.
-- {now, backends} where operators hold other backends than the caller knows of: nothing is taken until it does.
-- awake_ms > 0 is the worker's promise to look again within that time; it stands only while it leaves nothing behind.
concurrency, batch_reserve = places_now(model, concurrency, batch_reserve)
local now = clock()
local out = {now, 0}
local awake_key, running_key = NAMES.awake .. model, NAMES.running .. model
-- Without a new promise the old one is taken back: whoever sleeps must be woken by a ticket.
local function promise()
  if awake_ms > 0 then redis.call('SET', awake_key, '1', 'PX', awake_ms) else redis.call('DEL', awake_key) end
end
if redis.call('EXISTS', NAMES.waits .. model) == 0 then  -- what a busy worker nearly always finds
  promise()
  return out
end
if stands(NAMES.hold, lease_ms) then return out end
local room = NAMES.room .. model
local passes = redis.call('HMGET', room, 'pass:priority', 'pass:default', 'pass:flex', 'pass:batch', 'held', 'off')
if passes[5] then  -- whoever lets it go wakes the workers
  if has_word(passes[5], 'starting') then out[2] = 3 end
  return out
end
if (passes[6] or '') ~= off then return {now, passes[6] or ''} end  -- the caller chooses among the others from here on
local running = redis.call('ZCARD', running_key)
local n = math.min(free_slots, concurrency - running)
if n > 0 and not surplus then
  n = math.min(n, math.ceil(concurrency / math.max(1, live_workers(model, now, LIVE_WORKER_MS))) - mine)
end

local lanes = {'priority', 'default', 'flex', 'batch'}
local weights, size, pass = {priority = weight_priority, default = weight_default, flex = weight_flex, batch = weight_batch}, {}, {}
for i, lane in ipairs(lanes) do
  size[lane] = redis.call('ZCARD', lane_key(lane, model))
  pass[lane] = tonumber(passes[i] or 0)
end
local batch = (batch_reserve > 0 and size.batch > 0) and redis.call('SCARD', NAMES.batch_running .. model) or 0

-- What would be handed back at once for somebody who waits need not begin.
local function is_shut() return people_first and size.priority + size.default + size.flex > 0 end

-- Weighted turns (stride scheduling): the lane with the smallest pass goes next and moves on by 1 / weight.
local function next_lane()
  local best = nil
  for _, lane in ipairs(lanes) do
    local open = size[lane] > 0 and (lane ~= 'batch' or batch + batch_reserve < concurrency and not is_shut())
    if open and (best == nil or pass[lane] < pass[best]) then best = lane end
  end
  return best
end

local alive, judged = {}, not stood_still(now)
local function is_heard(job)
  if job.owners == '' or job.must_finish or not judged then return true end
  for owner in each_owner(job.owners) do
    if alive[owner] == nil then alive[owner] = redis.call('EXISTS', NAMES.owner .. owner) == 1 end
    if alive[owner] then return true end
  end
  return false
end

local taken, looked, bulk, present, moved, aside, stays = 0, 0, 0, nil, {}, {}, {}
while taken < n and looked < n + 200 do
  local lane = next_lane()
  if not lane then break end
  looked = looked + 1
  local popped = redis.call('ZPOPMIN', lane_key(lane, model))
  size[lane] = size[lane] - 1
  local id, tag = popped[1], popped[2]
  redis.call('ZREM', NAMES.waits .. model, id)
  local job = load_job(id, true)
  if job and job.apart and bulk + job.bytes > bulk_bytes and job.deadline and job.deadline > now and is_heard(job) then
    -- More than this worker can hold now: it waits on, and whoever stands behind it may go.
    aside[#aside + 1], stays[lane] = {lane, tag, id, job.deadline, job.group and job}, true
    if job.group then leave_group(id, job, tag, 0) end
  elseif not job then
    redis.call('HSET', room, 'lost', 1)  -- its record is gone, and with it how much it counts: the sweep counts anew
  else
    count_waiting(job, -1)
    if job.limits then leave_waits(id, job) end
    if not is_heard(job) then
      if job.group then leave_group(id, job, tag, 0) end
      settle_share(job, -job.cost, true)
      finish(id, job)
    elseif job.deadline and job.deadline <= now then
      if job.group then leave_group(id, job, tag, 0) end
      settle_share(job, -job.cost, true)
      fail(id, job, timeout_wire)
    else
      local tries = job.tries + 1
      local attempt = tries .. '.' .. nonce
      redis.call('HSET', NAMES.job .. id, 'state', 'running', 'attempt', attempt, 'tries', tries, 'taken', now)
      redis.call('ZADD', running_key, now + lease_ms, id)
      if lane == 'batch' then
        batch = batch + 1
        redis.call('SADD', NAMES.batch_running .. model, id)
      end
      if job.group then leave_group(id, job, tag, job.cost, now) end
      local at = #out
      out[at + 1], out[at + 2], out[at + 3], out[at + 4] = id, attempt, job.admitted, job.bytes
      out[at + 5], out[at + 6] = job.spec, not job.apart and job.body
      if job.apart then bulk = bulk + job.bytes end
      taken, running = taken + 1, running + 1
      present = pass[lane]
      pass[lane] = pass[lane] + 1 / weights[lane]
      moved[lane] = tag ~= 'inf' and tag or moved[lane] or ''  -- of a group that was not in order
    end
  end
  -- An empty lane resets its clock, so that no tenant pays for work of the past.
  if size[lane] == 0 and not stays[lane] then redis.call('DEL', tags_key(lane, model)); moved[lane] = moved[lane] and '' end
end
for lane, tag in pairs(moved) do
  redis.call('HSET', room, 'pass', present, 'pass:' .. lane, pass[lane])
  if tag ~= '' then redis.call('HSET', tags_key(lane, model), ':clock', tag) end
end
-- Behind the clocks: by its lane's a group finds its place again.
for _, one in ipairs(aside) do
  if one[5] then stand_again(one[3], one[5]) else redis.call('ZADD', lane_key(one[1], model), one[2], one[3]) end
  redis.call('ZADD', NAMES.waits .. model, one[4], one[3])
end
-- While the reserve keeps batch work out it saves up no turns, just as an empty lane does not.
if present and (batch + batch_reserve >= concurrency or is_shut()) and pass.batch < present then redis.call('HSET', room, 'pass:batch', present) end
if running < concurrency and next_lane() then out[2] = 1 end
-- A worker that is full looks no more, whatever it says: others must be woken.
if out[2] == 0 and taken < free_slots then promise()
elseif redis.call('DEL', awake_key) == 1 and out[2] == 1 then
  push_ticket(queue, ticket, 'take-' .. now, live_workers(model, now, LIVE_WORKER_MS))
end
-- 2: somebody is left behind batch work, for whom it may have to make room.
if out[2] == 0 and is_shut() and redis.call('SCARD', NAMES.batch_running .. model) > 0 then out[2] = 2 end
publish_frames()
return out
