-- The recovery clock, run every second by one elected process: expired leases, deadlines, dead owners, tickets.
--
--   state     who moves it      to
--   running   sweep             waiting, ended (published, or its last try), (none) (cancelled), where its lease ran out
--   waiting   sweep             ended, past its deadline or without any worker; (none), where its last owner is dead
--
-- Returns {} when another process sweeps, else {now, reclaimed, expired, orphaned, tickets, failure...}: what failed for one
-- model or owner hides no other.
local now = clock()
write_at_maxmemory()
if stands(NAMES.sweeper, period_ms) then return {} end
redis.call('SET', NAMES.sweeper, sweeper, 'PX', math.max(1, math.floor(period_ms * 0.9)))
local still = stood_still(now)
local was_set_back = tonumber(redis.call('GET', NAMES.swept) or now) > now
redis.call('SET', NAMES.swept, now, 'PX', DAY_MS)
redis.call('ZREMRANGEBYSCORE', NAMES.processes, '-inf', now - 60000)

local reclaimed, expired, orphaned, tickets, failures = 0, 0, 0, 0, {}
local function guarded(step, ...)
  local ok, failure = pcall(step, ...)
  if not ok then failures[#failures + 1] = error_text(failure) end
end

-- Heartbeats and leases that lie in the future are of before the clock was set back: they begin anew. What waits without a
-- deadline, a batch's lines, waits on.
local function clamp(key, limit)
  local late = redis.call('ZRANGEBYSCORE', key, '(' .. limit, '(+inf', 'LIMIT', 0, 1000)
  for _, member in ipairs(late) do redis.call('ZADD', key, 'XX', limit, member) end
end

-- Jobs of a dead API process: nobody waits for them, unless others do or they must finish. Some at a time, so that a process
-- with many costs no more a second than one with few; it stays an owner until all are gone.
local function orphan(owner)
  local key = NAMES.owned .. owner
  local ids, tell = redis.call('SRANDMEMBER', key, ORPHANS), {}
  for _, id in ipairs(ids) do
    local job = load_job(id)
    local left = job and without_owner(job.owners, owner) or ''
    if not job or job.state == 'ended' then
      redis.call('SREM', key, id)
    elseif left ~= '' or job.must_finish then
      redis.call('SREM', key, id)
      redis.call('HSET', NAMES.job .. id, 'owners', left)
    elseif job.state == 'waiting' then
      leave_room(id, job)
      finish(id, job)
      orphaned = orphaned + 1
    else
      if not job.cancelled then redis.call('HSET', NAMES.job .. id, 'cancelled', '1') end
      tell[#tell + 1] = id
      orphaned = orphaned + 1
    end
  end
  if #tell > 0 then redis.call('PUBLISH', NAMES.control, table.concat(tell, ' ')) end
  if redis.call('EXISTS', key) == 0 then redis.call('SREM', NAMES.owners, owner) end
end

local function owners()
  for _, owner in ipairs(redis.call('SMEMBERS', NAMES.owners)) do
    local left = redis.call('PTTL', NAMES.owner .. owner)
    if still then redis.call('SET', NAMES.owner .. owner, '1', 'PX', OWNER_MS)
    elseif left > OWNER_MS then redis.call('PEXPIRE', NAMES.owner .. owner, OWNER_MS)
    elseif left == -2 then guarded(orphan, owner) end
  end
end

-- A lease ran out: the job's worker is gone, or hangs.
local function reclaim(id, model)
  local job = load_job(id)
  reclaimed = reclaimed + 1
  if not job or job.model ~= model or job.state ~= 'running' then
    redis.call('ZREM', NAMES.running .. model, id)
    redis.call('SREM', NAMES.batch_running .. model, id)
  elseif job.cancelled then end_cancelled(id, job)
  elseif redis.call('LLEN', NAMES.log .. id) > 0 then fail(id, job, lost_wire)
  elseif job.tries >= job.max_tries then fail(id, job, exhausted_wire)
  else wait_again(id, job, now, job.tries) end
end

local function leases(model)
  local running_key = NAMES.running .. model
  if still then
    -- Redis stood still, so nobody could renew: every lease gets one more life before any is judged.
    for _, id in ipairs(redis.call('ZRANGE', running_key, 0, -1)) do redis.call('ZADD', running_key, 'XX', now + lease_ms, id) end
    clamp(NAMES.workers .. model, now)
    return
  end
  clamp(running_key, now + lease_ms)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', running_key, '-inf', now, 'LIMIT', 0, 200)) do guarded(reclaim, id, model) end
end

-- Nothing of a model that nobody uses any more stays for ever. Done here, as it would cost every job a dozen commands.
local function give_lifetimes(model, backends)
  local set = redis.call('HMGET', NAMES.room .. model, 'held', 'state', 'off')
  local off = set[3]
  -- What an operator has set stays, however long nothing comes.
  if not (set[1] or set[2] or off) then redis.call('PEXPIRE', NAMES.room .. model, DAY_MS) else redis.call('PERSIST', NAMES.room .. model) end
  if off then hold_without_backends(model, off, backends) end  -- a reload may have changed what there is
  for _, key in ipairs({NAMES.tenants .. model, NAMES.waits .. model, NAMES.running .. model, NAMES.batch_running .. model}) do
    redis.call('PEXPIRE', key, DAY_MS)
  end
  for _, lane in ipairs({'priority', 'default', 'flex', 'batch'}) do
    redis.call('PEXPIRE', lane_key(lane, model), DAY_MS)
    redis.call('PEXPIRE', tags_key(lane, model), DAY_MS)
  end
end

-- The same for its groups. One whose head is not in line, since its record went or somebody took it who knows of no groups,
-- is put in order with what is counted anew.
local function tend_groups(model)
  local key = NAMES.groups .. model
  local known = redis.call('HGETALL', key)
  for i = 1, #known, 2 do
    local lane, group = string.match(known[i], '^(%a+):(.+)$')
    local of = {lane = lane, group = group, model = model}
    local head = redis.call('ZRANGE', members_key(of), 0, 0)[1]
    local place = head and redis.call('ZSCORE', lane_key(lane, model), head)
    local job = head and load_job(head)
    if not head then redis.call('HDEL', key, known[i])
    elseif not job or not place or place == 'inf' then redis.call('HSET', NAMES.room .. model, 'lost', 1)
    elseif tonumber(known[i + 1]) ~= job.group_weight then redis.call('HSET', key, known[i], job.group_weight) end
    redis.call('PEXPIRE', members_key(of), DAY_MS)
    redis.call('PEXPIRE', tags_of(of), DAY_MS)
  end
  if #known > 0 and redis.call('PEXPIRE', key, DAY_MS) == 0 then redis.call('HDEL', NAMES.room .. model, 'grouped') end
end

-- Forgets who is in a model's groups, and the tags of those of which nobody waits.
local function clear_groups(model, through)
  for _, name in ipairs(redis.call('HKEYS', NAMES.groups .. model)) do
    local lane, group = string.match(name, '^(%a+):(.+)$')
    local of = {lane = lane, group = group, model = model}
    if not through then redis.call('DEL', members_key(of))
    elseif redis.call('EXISTS', members_key(of)) == 0 then redis.call('DEL', tags_of(of)) end
  end
end

-- Puts those of a lane that are in groups in line anew, each group at the place that its head had.
local function regroup(model, lane, groups)
  for group, ids in pairs(groups) do
    local of, place = {lane = lane, group = group, model = model}, math.huge
    for _, one in ipairs(ids) do
      redis.call('ZADD', members_key(of), one.tag, one.id)
      redis.call('ZADD', lane_key(lane, model), math.huge, one.id)
      place = math.min(place, one.place)
    end
    if place == math.huge then place = tonumber(redis.call('HGET', tags_key(lane, model), ':clock') or 0) end
    redis.call('ZADD', lane_key(lane, model), place, redis.call('ZRANGE', members_key(of), 0, 0)[1])
  end
end

-- Counts a room anew. A record that went while its job waited (its lifetime was over after a long outage, or it could not
-- be read) took with it what the room had counted for it.
local function recount(model)
  redis.call('DEL', NAMES.tenants .. model)
  clear_groups(model)
  redis.call('HDEL', NAMES.room .. model, 'lost', 'bytes', 'tokens', 'batch:bytes', 'batch:tokens', 'batch:must_finish')
  for _, lane in ipairs({'priority', 'default', 'flex', 'batch'}) do
    local ids, groups = redis.call('ZRANGE', lane_key(lane, model), 0, -1, 'WITHSCORES'), {}
    if #ids == 0 then redis.call('DEL', tags_key(lane, model)) end
    for i = 1, #ids, 2 do
      local job = load_job(ids[i])
      if job then count_waiting(job, 1) end
      if job and job.group then
        groups[job.group] = groups[job.group] or {}
        table.insert(groups[job.group], {id = ids[i], place = tonumber(ids[i + 1]), tag = job.tag})
      end
    end
    regroup(model, lane, groups)
  end
  clear_groups(model, true)
end

local function drop_lost(model, id)
  redis.call('ZREM', NAMES.waits .. model, id)
  for _, lane in ipairs({'priority', 'default', 'flex', 'batch'}) do redis.call('ZREM', lane_key(lane, model), id) end
  redis.call('HSET', NAMES.room .. model, 'lost', 1)
end

local function give_up(model, ids, wire)
  for _, id in ipairs(ids) do
    local job = load_job(id)
    if job and job.state == 'waiting' and job.model == model then
      leave_room(id, job)
      fail(id, job, wire)
      expired = expired + 1
    else drop_lost(model, id) end
  end
end

local function is_unserved(model)
  local newest = redis.call('ZREVRANGE', NAMES.workers .. model, 0, 0, 'WITHSCORES')
  local heard = math.max(tonumber(newest[2] or 0), tonumber(redis.call('HGET', NAMES.room .. model, 'left_at') or 0))
  return now - math.min(heard, now) > grace_ms
end

-- What those are told whose wait is over: that nothing has run, and why.
local function overdue_wire(model, waits_unserved)
  local held = redis.call('HGET', NAMES.room .. model, 'held')
  local is_starting = held and has_word(held, 'starting') or waits_unserved and live_workers(model, now, LIVE_WORKER_MS) == 0
  return is_starting and not_started_wire or timeout_wire
end

local function waits_of(model, concurrency, max_wait_ms, queue, ticket, waits_unserved)
  local waits, room = NAMES.waits .. model, NAMES.room .. model
  clamp(waits, now + (was_set_back and max_wait_ms or math.max(max_wait_ms, KEEP_MS)))
  local overdue = redis.call('ZRANGEBYSCORE', waits, '-inf', now, 'LIMIT', 0, 500)
  if #overdue > 0 then give_up(model, overdue, overdue_wire(model, waits_unserved)) end
  if redis.call('HEXISTS', room, 'lost') == 1 then recount(model) end
  local count = redis.call('ZCARD', waits)
  local unserved = count > 0 and not still and not waits_unserved and is_unserved(model)
  if not unserved then redis.call('HDEL', room, 'unserved') end
  if count == 0 or still then return end
  if unserved then
    -- Told at the next sweep, so that a restarted Redis leaves the workers time to say that they live.
    if redis.call('HSETNX', room, 'unserved', now) == 0 then give_up(model, redis.call('ZRANGEBYSCORE', waits, '-inf', '(+inf', 'LIMIT', 0, 500), no_worker_wire) end
    return
  end
  if redis.call('ZCARD', NAMES.running .. model) >= places_now(model, concurrency, 0) or redis.call('HEXISTS', room, 'held') == 1 then return end
  local live = live_workers(model, now, LIVE_WORKER_MS)
  if redis.call('LLEN', queue) < math.min(math.max(1, live), count) then
    push_ticket(queue, ticket, 'sweep-' .. now, live)
    tickets = tickets + 1
  end
end

guarded(owners)
for model, concurrency, max_wait_ms, queue, ticket, waits_unserved, backends in rows() do
  guarded(leases, model)
  guarded(give_lifetimes, model, backends)
  guarded(tend_groups, model)
  guarded(waits_of, model, concurrency, max_wait_ms, queue, ticket, waits_unserved)
end
publish_frames()
return {now, reclaimed, expired, orphaned, tickets, unpack(failures, 1, 20)}
