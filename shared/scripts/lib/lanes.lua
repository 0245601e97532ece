-- Who goes next: lanes with weighted turns; inside a lane start-time fair queuing between tenants and groups, and inside a
-- group once more, between its tenants.
--
-- A lane's sorted set holds all who wait in it. Of a group only one, its head, has a tag there: the group's. The others stand
-- at the end, and in what order they become the head tells the set of the group's members.

local function lane_key(lane, model) return NAMES.lane .. lane .. ':' .. model end
local function tags_key(lane, model) return NAMES.tags .. lane .. ':' .. model end
local function members_key(job) return NAMES.members .. job.lane .. ':' .. job.group .. ':' .. job.model end

-- Where a job's tenant has its tags: in its lane, or in its group.
local function tags_of(job)
  if job.group then return NAMES.member_tags .. job.lane .. ':' .. job.group .. ':' .. job.model end
  return tags_key(job.lane, job.model)
end

-- A group's finish tag in its lane, while none of it waits; no tenant's name has a slash.
local function group_field(job) return '/' .. job.group end

-- A lane that was empty must not have saved up turns: it joins at the present pass.
local function open_lane(job)
  local room = NAMES.room .. job.model
  local passes = redis.call('HMGET', room, 'pass', 'pass:' .. job.lane)
  local present = tonumber(passes[1] or 0)
  if tonumber(passes[2] or 0) < present then redis.call('HSET', room, 'pass:' .. job.lane, present) end
end

-- A tenant's finish tag is behind the tag of its last job, by one token at least: a refund that would put it further back is
-- owed, and lessens what its next jobs are charged. Else whoever was served would be let in before all who wait, its own jobs
-- included, and be served again; and jobs of one tag go by their ids, so that of two batches the older one's lines would
-- always go first, whichever is due first.
local function owed_field(tenant) return ':owed:' .. tenant end
local function last_field(tenant) return ':last:' .. tenant end
local function set_finish(tags, job, finish_tag, last, owed_before)
  local tenant, least = job.tenant, last + 1 / job.weight
  if finish_tag >= least and not owed_before then  -- the usual case: nothing is owed, nor was
    redis.call('HSET', tags, tenant, finish_tag, last_field(tenant), last)
  else
    redis.call('HSET', tags, tenant, math.max(finish_tag, least), last_field(tenant), last,
      owed_field(tenant), math.min(0, finish_tag - least))
  end
end

-- Puts a job into its lane. A group of which nobody waited begins at the later of the lane's clock and its own last finish,
-- or at the earlier where its job was first in line once. A new head takes over the tag of the old one.
local function stand(id, job, tag, was_first)
  local lane = lane_key(job.lane, job.model)
  if not job.group then redis.call('ZADD', lane, tag, id); return end
  local members, place = members_key(job), math.huge
  local head = redis.call('ZRANGE', members, 0, 0, 'WITHSCORES')
  redis.call('ZADD', members, tag, id)
  if not head[1] then
    local at = redis.call('HMGET', tags_key(job.lane, job.model), ':clock', group_field(job))
    local clock_tag, finish_tag = tonumber(at[1] or 0), tonumber(at[2] or at[1] or 0)
    if was_first then place = math.min(clock_tag, finish_tag) else place = math.max(clock_tag, finish_tag) end
    if redis.call('HSETNX', NAMES.groups .. job.model, job.lane .. ':' .. job.group, job.group_weight) == 1 then
      redis.call('HSET', NAMES.room .. job.model, 'grouped', 1)
    end
  elseif tag < tonumber(head[2]) or (tag == tonumber(head[2]) and id < head[1]) then
    local taken_over = redis.call('ZSCORE', lane, head[1])
    if taken_over then
      place = tonumber(taken_over)
      redis.call('ZADD', lane, math.huge, head[1])
    end
  end
  redis.call('ZADD', lane, place, id)
end

-- Takes a job that has left its lane out of its group; was it the head, then the next one is, later by what the group is
-- charged. Of a group that is through its tenants' tags go: no tenant pays for work of the past.
local function leave_group(id, job, place, cost, now)
  local members, lane, tags = members_key(job), lane_key(job.lane, job.model), tags_key(job.lane, job.model)
  redis.call('ZREM', members, id)
  place = tonumber(place)
  if place == math.huge then return end
  if cost > 0 then redis.call('HSETNX', tags, ':since', now) end
  place = place + cost / job.group_weight
  while true do
    local head = redis.call('ZRANGE', members, 0, 0)[1]
    if not head then break end
    if redis.call('ZSCORE', lane, head) then
      redis.call('ZADD', lane, place, head)
      if cost > 0 then redis.call('HSET', tags_of(job), ':clock', job.tag) end
      return
    end
    redis.call('ZREM', members, head)  -- somebody took it who knows of no groups
  end
  redis.call('DEL', tags_of(job))
  redis.call('HSET', tags, group_field(job), place)
end

-- Charges a group for what its job has used more, or less, than it was charged when it was taken; not where the lane's clock
-- was reset since.
local function settle_group(job, tokens)
  local tags = tags_key(job.lane, job.model)
  local at = redis.call('HMGET', tags, ':since', group_field(job))
  if not at[1] or not job.taken or job.taken < tonumber(at[1]) then return end
  local head = redis.call('ZRANGE', members_key(job), 0, 0)[1]
  local moved = tokens / job.group_weight
  if head then redis.call('ZADD', lane_key(job.lane, job.model), 'XX', 'INCR', moved, head)
  elseif at[2] then redis.call('HSET', tags, group_field(job), tonumber(at[2]) + moved) end
end

-- A new job's tag is the later of the lane's clock and its tenant's last finish. What is owed to a tenant that has nothing
-- waiting is forgotten: no turns are saved up.
local function enter_lane(id, job)
  local lane, tags = lane_key(job.lane, job.model), tags_of(job)
  if redis.call('EXISTS', lane) == 0 then open_lane(job) end
  local at = redis.call('HMGET', tags, ':clock', job.tenant, owed_field(job.tenant))
  local clock_tag, finish_tag = tonumber(at[1] or 0), tonumber(at[2] or 0)
  local tag = math.max(clock_tag, finish_tag)
  local owed = finish_tag >= clock_tag and tonumber(at[3] or 0) or 0
  set_finish(tags, job, tag + job.cost / job.weight + owed, tag, at[3])
  stand(id, job, tag)
  return tag
end

-- A job that comes back was first in line once. Should the lane have been empty since, its old tag would put it behind
-- everybody.
local function stand_again(id, job)
  stand(id, job, math.min(job.tag, tonumber(redis.call('HGET', tags_of(job), ':clock') or 0)), true)
end

local function enter_lane_again(id, job)
  if redis.call('EXISTS', lane_key(job.lane, job.model)) == 0 then open_lane(job) end
  if job.group then settle_group(job, -job.cost) end
  stand_again(id, job)
end

-- A model's limits hold for its batch lane and, apart from it, for its other lanes together: neither can fill the
-- other's room. What must finish is let into the batch lane without limit, so it takes no place from others either.
local function is_bounded(lane, must_finish, sink) return lane ~= 'batch' or not must_finish or sink == STORED end

-- The field that counts for a lane's room; no tenant's name has a colon.
local function room_field(lane, name) return lane == 'batch' and 'batch:' .. name or name end

-- Who fills its share of a room: a group with all of its tenants together, or a tenant.
local function share_field(lane, tenant, group) return room_field(lane, group and '/' .. group or tenant) end

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
  local tenants, tenant = NAMES.tenants .. job.model, share_field(job.lane, job.tenant, job.group)
  if redis.call('HINCRBY', tenants, tenant, sign) <= 0 then redis.call('HDEL', tenants, tenant) end
end

-- Moves a tenant's finish tag: back by what it did not use, on by what it used more. Never worth failing for. With a job that
-- was never taken goes its place too.
local function settle_share(job, tokens, was_waiting)
  local tags = tags_of(job)
  if job.group and not was_waiting then pcall(settle_group, job, tokens) end
  local at = redis.call('HMGET', tags, job.tenant, last_field(job.tenant), owed_field(job.tenant))
  if not at[1] then return end
  local moved = tokens / job.weight
  local finish_tag, last = tonumber(at[1]) + tonumber(at[3] or 0) + moved, tonumber(at[2])
  pcall(set_finish, tags, job, finish_tag, last and last + (was_waiting and moved or 0) or finish_tag, at[3])
end

-- Takes a waiting job out of its room, and gives its estimate back to the tenant (cancelled or expired work).
local function leave_room(id, job)
  local lane = lane_key(job.lane, job.model)
  redis.call('ZREM', NAMES.waits .. job.model, id)
  local place = job.group and redis.call('ZSCORE', lane, id)
  if redis.call('ZREM', lane, id) == 1 then count_waiting(job, -1) end
  if place then leave_group(id, job, place, 0) end
  settle_share(job, -job.cost, true)
  -- An empty lane resets its clock, so that no tenant pays for work of the past.
  if redis.call('EXISTS', lane) == 0 then redis.call('DEL', tags_key(job.lane, job.model)) end
end

-- How many jobs wait in a lane's room, against max_queue.
local function waiting(model, lane)
  local all = lane ~= 'batch' and redis.call('ZCARD', NAMES.waits .. model)
  if all == 0 then return 0 end
  local batch = redis.call('ZCARD', lane_key('batch', model))
  if all then return all - batch end
  return batch - math.max(0, tonumber(redis.call('HGET', NAMES.room .. model, 'batch:must_finish') or 0))
end

-- How many jobs of a model may run at once, and how many of these batch work leaves to others. A negative number is one of
-- `concurrency: auto`: at most so many, as far as they have been found. Of few slots few are kept from batch work, or a
-- model that has nothing else to do would never use what it is to find.
local function places_now(model, concurrency, batch_reserve)
  if concurrency >= 0 then return concurrency, batch_reserve end
  local found = tonumber(redis.call('HGET', NAMES.capacity .. model, 'places') or 1)
  local places = math.max(1, math.min(-concurrency, found))
  return places, batch_reserve >= -concurrency and places or math.min(batch_reserve, math.floor(places / 5))
end
