-- What every script shares. NAMES (the key prefixes) is written in front of this by shared/scripting.py.
-- Times are milliseconds of Redis's own clock. Scripts build key names from ids they find, so Redis Cluster is refused.

local DAY = 86400000  -- lifetime of a model's keys: given when one is made, renewed by the sweep while any process lives
local LOG_ONLY = 4294967295  -- a frame's length field: the payload is in the log alone

local function clock()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local FIELDS = {'model', 'owner', 'lane', 'tenant', 'share', 'cost', 'weight', 'tag', 'state', 'attempt', 'tries',
  'cancelled', 'keep', 'token', 'bytes', 'admitted', 'max_tries', 'idempotency', 'meta', 'deadline', 'counted'}

-- A job's record as a table, or nil when there is none.
local function load_job(id)
  local values = redis.call('HMGET', NAMES.job .. id, unpack(FIELDS))
  if not values[1] then return nil end
  local job = {}
  for i, field in ipairs(FIELDS) do job[field] = values[i] end
  return job
end

-- At maxmemory Redis refuses a script's first write if it could grow memory, but no later one. Scripts that must work
-- there (heartbeats, renewals, the sweep, ends) therefore begin with a write that can only shrink.
local function write_at_maxmemory() redis.call('DEL', NAMES.job) end

-- After a gap in the sweeps (Redis was away) no owner is judged dead: nobody could say that it lives.
local function owners_are_judged(now)
  local swept = redis.call('GET', NAMES.swept)
  return not swept or now - tonumber(swept) <= 3000
end

local frames = {}

-- Remembers one event for its owner; publish_frames sends them all, one message an owner.
local function frame(owner, id, number, payload)
  local list = frames[owner]
  if not list then list = {}; frames[owner] = list end
  if #payload > 65536 then
    list[#list + 1] = id .. struct.pack('>I4I4', number, LOG_ONLY)
  else
    list[#list + 1] = id .. struct.pack('>I4I4', number, #payload) .. payload
  end
end

local function publish_frames()
  for owner, list in pairs(frames) do redis.call('PUBLISH', NAMES.events .. owner, table.concat(list)) end
  frames = {}
end

-- Lanes -----------------------------------------------------------------------------------------------------------

local function lane_key(lane, model) return NAMES.lane .. lane .. ':' .. model end
local function tags_key(lane, model) return NAMES.tags .. lane .. ':' .. model end

-- Start-time fair queuing between tenants: a job's tag is the later of the lane's clock and its tenant's last finish.
local function enter_lane(id, job, tag)
  local lane, tags = lane_key(job.lane, job.model), tags_key(job.lane, job.model)
  local room = NAMES.room .. job.model
  local was_empty = redis.call('EXISTS', lane) == 0
  if was_empty then
    -- A lane that was empty must not have saved up turns: it joins at the present pass.
    local passes = redis.call('HMGET', room, 'pass', 'pass:' .. job.lane)
    local present = tonumber(passes[1] or 0)
    if tonumber(passes[2] or 0) < present then redis.call('HSET', room, 'pass:' .. job.lane, present) end
  end
  if not tag then
    local at = redis.call('HMGET', tags, ':clock', job.tenant)
    tag = math.max(tonumber(at[1] or 0), tonumber(at[2] or 0))
    if redis.call('HSET', tags, job.tenant, tag + tonumber(job.share)) == 1 then redis.call('PEXPIRE', tags, DAY) end
  else
    -- It was first in line once. Should the lane have been empty since, its old tag would put it behind everybody.
    tag = math.min(tonumber(tag), tonumber(redis.call('HGET', tags, ':clock') or 0))
  end
  redis.call('ZADD', lane, tag, id)
  if was_empty then redis.call('PEXPIRE', lane, DAY) end
  return tag
end

-- Notes until when a job waits that was taken once already. It may wait and run as long as a new one from here on, so
-- whatever lives as long as the job does is given its whole life again.
local function set_deadline(id, job, now, deadline)
  local key = NAMES.job .. id
  redis.call('ZADD', NAMES.waits .. job.model, deadline, id)
  redis.call('PEXPIRE', NAMES.waits .. job.model, DAY)
  redis.call('HSET', key, 'deadline', deadline)
  local life = tonumber(redis.call('HGET', key, 'life') or DAY)  -- not in FIELDS: nobody else needs it
  redis.call('PEXPIRE', key, life)
  redis.call('PEXPIRE', NAMES.body .. id, life)
  if job.idempotency ~= '' and string.sub(redis.call('GET', job.idempotency) or '', 1, 32) == id then
    redis.call('PEXPIRE', job.idempotency, life)
  end
  if job.token ~= '' then
    redis.call('ZADD', NAMES.token_jobs .. job.token, 'XX', now + life, id)
    redis.call('PEXPIRE', NAMES.token_jobs .. job.token, life + 1000)
  end
end

-- A model's limits hold for its batch lane and, apart from it, for its other lanes together: neither can fill the
-- other's room. What must finish is let into the batch lane without limit, so it takes no place from others either.
local function is_bounded(lane, keep) return lane ~= 'batch' or keep ~= '1' end

-- The field that counts for a lane's room; no tenant's name has a colon.
local function room_field(lane, name) return lane == 'batch' and 'batch:' .. name or name end

-- A job may leave that was not counted when it came: by another version, or before Redis lost its last second.
local function count_in(room, field, number)
  if redis.call('HINCRBY', room, field, number) < 0 then redis.call('HSET', room, field, 0) end
end

-- Counters of what waits.
local function count_waiting(job, sign)
  local room = NAMES.room .. job.model
  if not is_bounded(job.lane, job.keep) then
    count_in(room, 'batch:must_finish', sign)
    redis.call('PEXPIRE', room, DAY)
    return
  end
  if job.counted ~= '' then  -- only where the model has such a limit
    count_in(room, room_field(job.lane, 'tokens'), sign * math.floor(tonumber(job.cost)))
    count_in(room, room_field(job.lane, 'bytes'), sign * tonumber(job.bytes))
    redis.call('PEXPIRE', room, DAY)
  end
  local tenants, tenant = NAMES.tenants .. job.model, room_field(job.lane, job.tenant)
  local left = redis.call('HINCRBY', tenants, tenant, sign)
  if left <= 0 then redis.call('HDEL', tenants, tenant)
  elseif left == 1 then redis.call('PEXPIRE', tenants, DAY) end
end

-- An empty lane resets its clock, so that no tenant pays for work of the past.
local function tidy_lane(job)
  if redis.call('EXISTS', lane_key(job.lane, job.model)) == 0 then
    redis.call('DEL', tags_key(job.lane, job.model))
  end
end

-- Takes a waiting job out of its room; give_back returns its estimate to the tenant (cancelled or expired work).
local function leave_room(id, job, give_back)
  redis.call('ZREM', NAMES.waits .. job.model, id)
  if redis.call('ZREM', lane_key(job.lane, job.model), id) == 1 then count_waiting(job, -1) end
  if give_back then
    local tags = tags_key(job.lane, job.model)
    if redis.call('HEXISTS', tags, job.tenant) == 1 then
      redis.call('HINCRBYFLOAT', tags, job.tenant, -tonumber(job.share))
    end
  end
  tidy_lane(job)
end

-- How many jobs wait in a lane's room, against max_queue.
local function waiting(model, lane)
  if lane == 'batch' then
    local unbounded = tonumber(redis.call('HGET', NAMES.room .. model, 'batch:must_finish') or 0)
    return redis.call('ZCARD', lane_key(lane, model)) - math.max(0, unbounded)
  end
  return redis.call('ZCARD', lane_key('priority', model)) + redis.call('ZCARD', lane_key('default', model))
    + redis.call('ZCARD', lane_key('flex', model))
end

local function live_workers(model, now, within)
  return redis.call('ZCOUNT', NAMES.workers .. model, now - within, '+inf')
end

-- Pushes a ticket unless as many as the model has live workers already lie there.
local function push_ticket(queue, ticket, id, live)
  if redis.call('LLEN', queue) < math.max(1, live) then
    redis.call('LPUSH', queue, (string.gsub(ticket, '@ID@', id)))
  end
end

-- Ends ------------------------------------------------------------------------------------------------------------

local function leave_running(id, job)
  redis.call('ZREM', NAMES.running .. job.model, id)
  if job.lane == 'batch' then redis.call('SREM', NAMES.batch .. job.model, id) end
end

-- Frees everything a job holds; its record and log stay for `keep_ms` so that a reader may still catch up.
local function finish(id, job, now, keep_ms)
  leave_running(id, job)
  if job.owner ~= '' then redis.call('SREM', NAMES.owned .. job.owner, id) end
  if job.token ~= '' then redis.call('ZREM', NAMES.token_jobs .. job.token, id) end
  redis.call('DEL', NAMES.body .. id)
  -- Only its own: another job may have taken the key over after this one was cancelled.
  if job.idempotency and job.idempotency ~= ''
    and string.sub(redis.call('GET', job.idempotency) or '', 1, 32) == id then
    if keep_ms > 0 then redis.call('PEXPIRE', job.idempotency, keep_ms) else redis.call('DEL', job.idempotency) end
  end
  if keep_ms > 0 then
    redis.call('HSET', NAMES.job .. id, 'state', 'ended')
    redis.call('PEXPIRE', NAMES.job .. id, keep_ms)  -- the log's own is set by who writes its last event
  else
    redis.call('DEL', NAMES.job .. id, NAMES.log .. id)
  end
end

-- Ends a job with a failed event that the scripts themselves write. Frees memory before it writes.
local function fail(id, job, now, wire, keep_ms)
  finish(id, job, now, keep_ms)
  redis.call('HSET', NAMES.job .. id, 'attempt', '')  -- whatever its worker still sends is stale
  local number = redis.call('RPUSH', NAMES.log .. id, 'E' .. wire) - 1
  redis.call('PEXPIRE', NAMES.log .. id, keep_ms)
  if job.owner ~= '' then frame(job.owner, id, number, 'E' .. wire) end
end

-- The running mean of the time between two ends, from which Retry-After is told.
local function count_ends(model, now, ends)
  local room = NAMES.room .. model
  local last = redis.call('HMGET', room, 'ended_at', 'every_ms')
  local every = tonumber(last[2] or 0)
  if last[1] then
    local gap = math.min(now - tonumber(last[1]), 60000) / ends
    local old = 0.95 ^ ends
    every = (every == 0) and gap or (every * old + gap * (1 - old))
  end
  redis.call('HSET', room, 'ended_at', now, 'every_ms', every)
  if not last[1] then redis.call('PEXPIRE', room, DAY) end
end
