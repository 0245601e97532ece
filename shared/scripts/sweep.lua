-- The recovery clock, run every second by one elected process: expired leases, deadlines, dead owners, tickets.
-- ARGV: sweeper, period_ms, lease_ms, grace_ms, wire of: queue_timeout, job_lost, too_many_attempts, no_worker; then for
--       each model: model, concurrency, queue, ticket
-- Returns {} when another process sweeps, else {now, reclaimed, expired, orphaned, tickets}
local sweeper, period, lease, grace = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local timeout_wire, lost_wire, poison_wire, no_worker_wire = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local KEEP = 60000
local now = clock()
write_at_maxmemory()
if not redis.call('SET', NAMES.sweeper, sweeper, 'NX', 'PX', math.max(1, math.floor(period * 0.9))) then return {} end
local swept = tonumber(redis.call('GET', NAMES.swept) or now)
redis.call('SET', NAMES.swept, now, 'PX', 86400000)
local stood_still = now - swept > 3000

local reclaimed, expired, orphaned, tickets = 0, 0, 0, 0

-- Owners get one more life after a standstill, as leases do below.
if stood_still then
  for _, owner in ipairs(redis.call('SMEMBERS', NAMES.owners)) do
    redis.call('SET', NAMES.owner .. owner, '1', 'NX', 'PX', 8000)
  end
end

-- Jobs of dead API processes: nobody waits for them, unless they must finish.
for _, owner in ipairs(redis.call('SMEMBERS', NAMES.owners)) do
  if redis.call('EXISTS', NAMES.owner .. owner) == 0 and not stood_still then
    local tell, left = {}, 0
    for _, id in ipairs(redis.call('SMEMBERS', NAMES.owned .. owner)) do
      local job = load_job(id)
      if not job or job.keep == '1' or orphaned >= 1000 then
        if job and job.keep ~= '1' then left = left + 1 else redis.call('SREM', NAMES.owned .. owner, id) end
      elseif job.state == 'waiting' then
        leave_room(id, job, true)
        finish(id, job, now, 0)
        orphaned = orphaned + 1
      else
        if job.cancelled == '' then redis.call('HSET', NAMES.job .. id, 'cancelled', '1') end
        tell[#tell + 1] = id
        orphaned = orphaned + 1
        left = left + 1
      end
    end
    if #tell > 0 then redis.call('PUBLISH', NAMES.control, table.concat(tell, ' ')) end
    if left == 0 then redis.call('SREM', NAMES.owners, owner); redis.call('DEL', NAMES.owned .. owner) end
  end
end

for i = 9, #ARGV, 4 do
  local model, concurrency, queue, ticket = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3]
  local running_key = NAMES.running .. model
  if stood_still then
    -- Redis stood still, so nobody could renew: every lease gets one more life before any is judged.
    for _, id in ipairs(redis.call('ZRANGE', running_key, 0, -1)) do redis.call('ZADD', running_key, 'XX', now + lease, id) end
  else
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', running_key, '-inf', now, 'LIMIT', 0, 200)) do
      local job = load_job(id)
      reclaimed = reclaimed + 1
      if not job then redis.call('ZREM', running_key, id)
      elseif job.cancelled ~= '' then finish(id, job, now, 0)
      elseif redis.call('LLEN', NAMES.log .. id) > 0 then fail(id, job, now, lost_wire, KEEP)
      elseif tonumber(job.tries) >= tonumber(job.max_tries) then fail(id, job, now, poison_wire, KEEP)
      else
        leave_running(id, job)
        redis.call('HSET', NAMES.job .. id, 'state', 'waiting', 'attempt', '')
        enter_lane(id, job, job.tag)
        count_waiting(job, 1)
        set_deadline(id, job, now, now + KEEP)
      end
    end
  end
  -- Nothing of a model that nobody uses any more stays for ever. Done here, as it would cost every job a dozen commands.
  for _, key in ipairs({NAMES.room .. model, NAMES.tenants .. model, NAMES.waits .. model, running_key, NAMES.batch .. model}) do
    redis.call('PEXPIRE', key, DAY)
  end
  for _, lane in ipairs({'priority', 'default', 'flex', 'batch'}) do
    redis.call('PEXPIRE', lane_key(lane, model), DAY)
    redis.call('PEXPIRE', tags_key(lane, model), DAY)
  end
  local waits = NAMES.waits .. model
  local function give_up(ids, wire)
    for _, id in ipairs(ids) do
      local job = load_job(id)
      if job and job.state == 'waiting' then
        leave_room(id, job, true)
        fail(id, job, now, wire, KEEP)
        expired = expired + 1
      else redis.call('ZREM', waits, id) end
    end
  end
  give_up(redis.call('ZRANGEBYSCORE', waits, '-inf', now, 'LIMIT', 0, 500), timeout_wire)
  local waiting_now = redis.call('ZCARD', waits)
  if waiting_now > 0 then
    local newest = redis.call('ZREVRANGE', NAMES.workers .. model, 0, 0, 'WITHSCORES')
    local silent = not newest[2] or now - tonumber(newest[2]) > grace
    if silent and not stood_still and redis.call('HGET', NAMES.room .. model, 'unserved') then
      give_up(redis.call('ZRANGE', waits, 0, 499), no_worker_wire)
    elseif silent and not stood_still then
      -- Told at the next sweep, so that a restarted Redis leaves the workers time to say that they live.
      redis.call('HSET', NAMES.room .. model, 'unserved', now)
    elseif redis.call('HDEL', NAMES.room .. model, 'unserved') >= 0 and redis.call('ZCARD', running_key) < concurrency then
      local live = live_workers(model, now, 6000)
      if redis.call('LLEN', queue) < math.min(math.max(1, live), waiting_now) then
        push_ticket(queue, ticket, 'sweep-' .. now, live)
        tickets = tickets + 1
      end
    end
  end
end
publish_frames()
return {now, reclaimed, expired, orphaned, tickets}
