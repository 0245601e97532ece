-- Who goes next: lanes with weighted turns, and inside a lane start-time fair queuing between tenants.

local function lane_key(lane, model) return NAMES.lane .. lane .. ':' .. model end
local function tags_key(lane, model) return NAMES.tags .. lane .. ':' .. model end

-- A lane that was empty must not have saved up turns: it joins at the present pass.
local function open_lane(job)
  local room = NAMES.room .. job.model
  local passes = redis.call('HMGET', room, 'pass', 'pass:' .. job.lane)
  local present = tonumber(passes[1] or 0)
  if tonumber(passes[2] or 0) < present then redis.call('HSET', room, 'pass:' .. job.lane, present) end
end

-- A tenant's finish tag is never before the tag of its last job: a refund that would put it there is owed, and lessens what
-- its next jobs are charged. Else whoever was served would be let in before all who wait, its own jobs included, and be
-- served again.
local function owed_field(tenant) return ':owed:' .. tenant end
local function last_field(tenant) return ':last:' .. tenant end
local function set_finish(tags, tenant, finish, last, owed_before)
  if finish >= last and not owed_before then  -- the usual case: nothing is owed, nor was
    redis.call('HSET', tags, tenant, finish, last_field(tenant), last)
  else
    redis.call('HSET', tags, tenant, math.max(finish, last), last_field(tenant), last,
      owed_field(tenant), math.min(0, finish - last))
  end
end

-- A new job's tag is the later of the lane's clock and its tenant's last finish. What is owed to a tenant that has nothing
-- waiting is forgotten: no turns are saved up.
local function enter_lane(id, job)
  local lane, tags = lane_key(job.lane, job.model), tags_key(job.lane, job.model)
  if redis.call('EXISTS', lane) == 0 then open_lane(job) end
  local at = redis.call('HMGET', tags, ':clock', job.tenant, owed_field(job.tenant))
  local clock_tag, finish = tonumber(at[1] or 0), tonumber(at[2] or 0)
  local tag = math.max(clock_tag, finish)
  local owed = finish >= clock_tag and tonumber(at[3] or 0) or 0
  set_finish(tags, job.tenant, tag + job.cost / job.weight + owed, tag, at[3])
  redis.call('ZADD', lane, tag, id)
  return tag
end

-- A job that comes back was first in line once. Should the lane have been empty since, its old tag would put it behind
-- everybody.
local function enter_lane_again(id, job)
  local lane, tags = lane_key(job.lane, job.model), tags_key(job.lane, job.model)
  if redis.call('EXISTS', lane) == 0 then open_lane(job) end
  redis.call('ZADD', lane, math.min(job.tag, tonumber(redis.call('HGET', tags, ':clock') or 0)), id)
end

-- A model's limits hold for its batch lane and, apart from it, for its other lanes together: neither can fill the
-- other's room. What must finish is let into the batch lane without limit, so it takes no place from others either.
local function is_bounded(lane, must_finish, sink) return lane ~= 'batch' or not must_finish or sink == STORED end

-- The field that counts for a lane's room; no tenant's name has a colon.
local function room_field(lane, name) return lane == 'batch' and 'batch:' .. name or name end

-- A job may leave that was not counted when it came: before Redis lost its last second.
local function count_in(room, field, number)
  if redis.call('HINCRBY', room, field, number) < 0 then redis.call('HSET', room, field, 0) end
end

-- Counters of what waits.
local function count_waiting(job, sign)
  local room = NAMES.room .. job.model
  if not is_bounded(job.lane, job.must_finish, job.sink) then
    count_in(room, 'batch:must_finish', sign)
    return
  end
  count_in(room, room_field(job.lane, 'bytes'), sign * job.bytes)
  if job.counts_tokens then  -- only where the model has such a limit
    count_in(room, room_field(job.lane, 'tokens'), sign * math.floor(job.cost))
  end
  local tenants, tenant = NAMES.tenants .. job.model, room_field(job.lane, job.tenant)
  if redis.call('HINCRBY', tenants, tenant, sign) <= 0 then redis.call('HDEL', tenants, tenant) end
end

-- Moves a tenant's finish tag: back by what it did not use, on by what it used more. Never worth failing for. With a job that
-- was never taken goes its place too.
local function settle_share(job, tokens, was_waiting)
  local tags = tags_key(job.lane, job.model)
  local at = redis.call('HMGET', tags, job.tenant, last_field(job.tenant), owed_field(job.tenant))
  if not at[1] then return end
  local moved = tokens / job.weight
  local finish, last = tonumber(at[1]) + tonumber(at[3] or 0) + moved, tonumber(at[2])
  pcall(set_finish, tags, job.tenant, finish, last and last + (was_waiting and moved or 0) or finish, at[3])
end

-- Takes a waiting job out of its room, and gives its estimate back to the tenant (cancelled or expired work).
local function leave_room(id, job)
  redis.call('ZREM', NAMES.waits .. job.model, id)
  if redis.call('ZREM', lane_key(job.lane, job.model), id) == 1 then count_waiting(job, -1) end
  settle_share(job, -job.cost, true)
  -- An empty lane resets its clock, so that no tenant pays for work of the past.
  if redis.call('EXISTS', lane_key(job.lane, job.model)) == 0 then redis.call('DEL', tags_key(job.lane, job.model)) end
end

-- How many jobs wait in a lane's room, against max_queue.
local function waiting(model, lane)
  local batch = redis.call('ZCARD', lane_key('batch', model))
  if lane ~= 'batch' then return redis.call('ZCARD', NAMES.waits .. model) - batch end
  return batch - math.max(0, tonumber(redis.call('HGET', NAMES.room .. model, 'batch:must_finish') or 0))
end

-- The lanes' weights, which travel as one argument: few calls need them.
local function weights_of(text)
  local weights = {}
  for number in string.gmatch(text, '%S+') do weights[#weights + 1] = tonumber(number) end
  return weights
end

-- Where the lanes of a model stand, as `take` will judge them: how many wait in each, and its pass. The batch lane counts as
-- empty while the reserve keeps it shut.
local function lanes_now(model, concurrency, batch_reserve)
  local passes = redis.call('HMGET', NAMES.room .. model, 'pass:priority', 'pass:default', 'pass:flex', 'pass:batch')
  local lanes = {}
  for i, lane in ipairs({'priority', 'default', 'flex', 'batch'}) do
    lanes[i] = {name = lane, pass = tonumber(passes[i] or 0), size = redis.call('ZCARD', lane_key(lane, model))}
  end
  if batch_reserve > 0 and lanes[4].size > 0
    and redis.call('SCARD', NAMES.batch_running .. model) + batch_reserve >= concurrency then lanes[4].size = 0 end
  return lanes
end

-- How many jobs of a model go before a waiting one: those before it in its own lane, and of each other lane those whose
-- turns come first. -1: it does not wait. O(log n), however many wait.
local function jobs_before(id, model, lane, lanes, weights)
  local rank = redis.call('ZRANK', lane_key(lane, model), id)
  if not rank then return -1 end
  local turn, own = nil, nil
  for i, one in ipairs(lanes) do if one.name == lane then own, turn = i, one.pass + rank / weights[i] end end
  if not own then return rank end
  local before = rank
  for i, one in ipairs(lanes) do
    if i ~= own and one.size > 0 then
      -- Turns at the same pass go to the lane that is named first. A pass is a sum of parts, so it is compared with a grain.
      local turns = (turn - one.pass) * weights[i]
      local first = i < own and math.floor(turns + 0.001) + 1 or math.ceil(turns - 0.001)
      before = before + math.max(0, math.min(one.size, first))
    end
  end
  return before
end
