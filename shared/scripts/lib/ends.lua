-- How jobs end, or wait again.

-- The first write of every end: it can only shrink, so that a job can end at maxmemory.
local function leave_running(id, job)
  redis.call('ZREM', NAMES.running .. job.model, id)
  if job.lane == 'batch' then redis.call('SREM', NAMES.batch_running .. job.model, id) end
end

-- Frees what only a worker needs.
local function free(id, job)
  redis.call('HDEL', NAMES.job .. id, 'spec', 'body')
  if job.apart then redis.call('UNLINK', NAMES.body .. id) end
end

-- Whether an idempotency key still stands for this job: another may have taken it over after this one was cancelled.
local function holds_key(id, job)
  return job.idempotency ~= '' and string.sub(redis.call('GET', job.idempotency) or '', 1, 32) == id
end

-- How long an ended job is kept for whoever reads its end: a batch's feeder may be away for longer than an API process, and
-- so may the store that an answer is to be written to. Of such answers only so many wait.
local function keep_of(job)
  if job.sink == STORED and redis.call('LLEN', NAMES.results .. STORED) >= MAX_UNSTORED then return KEEP_MS end
  return job.sink == '' and KEEP_MS or DAY_MS
end

-- When an ended job ended. That is not written down, but gives its record the last lifetime; what is left of it is of the
-- moment at which it is asked for, not of the script's.
local function ended_at(id, job)
  local left, t, keep = redis.call('PTTL', NAMES.job .. id), redis.call('TIME'), keep_of(job)
  if job.sink == STORED then keep = left > KEEP_MS and DAY_MS or KEEP_MS end  -- it is acknowledged, a moment after its end
  return math.max(job.admitted, t[1] * 1000 + math.floor(t[2] / 1000) - (keep - left))
end

-- Frees everything that a job which has left the running set holds; its record and log stay for `keep_ms` so that a reader
-- may still catch up; a sink hears of it. Whoever writes the last event gives the log its own lifetime. `begun` is when its
-- stream began, where that is now.
local function conclude(id, job, keep_ms, begun)
  for owner in each_owner(job.owners) do redis.call('SREM', NAMES.owned .. owner, id) end
  if job.limits then
    local settle_limits = limiter()
    pcall(settle_limits, id, job)
  end
  if holds_key(id, job) then
    if keep_ms > 0 then redis.call('PEXPIRE', job.idempotency, keep_ms) else redis.call('DEL', job.idempotency) end
  end
  local is_stored = keep_ms > 0 and job.sink == STORED  -- what was asked is stored too
  if job.apart then
    if is_stored then redis.call('PEXPIRE', NAMES.body .. id, keep_ms) else redis.call('UNLINK', NAMES.body .. id) end
  end
  if keep_ms > 0 then
    -- What only a worker needs is emptied, not deleted: one write instead of two.
    if is_stored then
      redis.call('HSET', NAMES.job .. id, 'state', 'ended')
      if begun then redis.call('HSET', NAMES.job .. id, 'begun', begun) end
    elseif begun then redis.call('HSET', NAMES.job .. id, 'state', 'ended', 'spec', '', 'body', '', 'begun', begun)
    else redis.call('HSET', NAMES.job .. id, 'state', 'ended', 'spec', '', 'body', '') end
    redis.call('PEXPIRE', NAMES.job .. id, keep_ms)
    if job.sink ~= '' and keep_ms > KEEP_MS then
      redis.call('RPUSH', NAMES.results .. job.sink, id)
      redis.call('PEXPIRE', NAMES.results .. job.sink, DAY_MS)
    end
  else
    redis.call('DEL', NAMES.job .. id, NAMES.log .. id)
  end
end

-- Ends a cancelled job, of which nothing stays but what it has used; `told` is what its worker says of that.
local function finish(id, job, told)
  leave_running(id, job)
  count_end(id, job, clock(), 'cancelled', told)
  conclude(id, job, 0)
end

-- Ends a job with a failed event that the scripts themselves write. The event comes before the record's end, so that no
-- end can be stored without being told. What its worker still sends is stale: the attempt keeps only its nonce, by which a
-- reader knows whose log this is.
local function fail(id, job, wire, outcome, told)
  leave_running(id, job)
  count_end(id, job, clock(), outcome or 'failed', told)
  if job.attempt ~= '' then redis.call('HSET', NAMES.job .. id, 'attempt', '0.' .. nonce_of(job.attempt)) end
  local log = NAMES.log .. id
  local number = redis.call('RPUSH', log, 'E' .. wire) - 1
  if number == 0 and outcome ~= 'cancelled' then job.used = 0 end  -- nobody had a word of it
  local keep_ms = keep_of(job)
  redis.call('PEXPIRE', log, keep_ms)
  conclude(id, job, keep_ms)
  frame(job.owners, id, nonce_of(job.attempt), number, 'E' .. wire)
end

-- Ends a cancelled job that its worker has let go: without a word where nobody listens, else as an operator's `end_jobs` has
-- it. Returns whether somebody was told.
local function end_cancelled(id, job, told)
  local wire = job.cancelled and redis.call('HGET', NAMES.job .. id, 'stopped')
  if wire then fail(id, job, wire, 'cancelled', told) else finish(id, job, told) end
  return wire and true or false
end

-- Lets a job that was taken wait again, in front. It may wait and run as long as a new one from here on, so whatever lives
-- as long as the job does is given its whole life again. With `keeps_deadline` it waits no longer than it would have.
local function wait_again(id, job, now, tries, keeps_deadline)
  local key, life = NAMES.job .. id, tonumber(job.life) or DAY_MS
  local deadline = is_line(job.sink) and math.huge or (keeps_deadline and job.deadline) or now + KEEP_MS
  leave_running(id, job)
  count_lost_run(job, now)
  redis.call('HSET', key, 'state', 'waiting', 'attempt', '', 'tries', tries, 'deadline', deadline)
  redis.call('PEXPIRE', key, life)
  enter_lane_again(id, job)
  count_waiting(job, 1)
  redis.call('ZADD', NAMES.waits .. job.model, deadline, id)
  if job.apart then redis.call('PEXPIRE', NAMES.body .. id, life) end
  if holds_key(id, job) then redis.call('PEXPIRE', job.idempotency, life) end
  if job.limits then
    local _, limit_again = limiter()
    limit_again(id, job, now, life, deadline)
  end
end

-- The running mean of the time between two ends, from which Retry-After is told, and how many there were lately, which
-- operators see: a mean of two ends says nothing. And how long jobs hold their slots, from which those that wait are told
-- when their turn comes: two sums that fade, of thousandths of ends and of ms, as whole numbers cost half as much to write.
local function count_ends(model, now, ends, busy_ms)
  local room, slot = NAMES.room .. model, math.floor(now / ENDS_SLOT_MS)
  local slot_name = 'ends:' .. slot % 4
  local last = redis.call('HMGET', room, 'ended_at', 'every_ms', slot_name, 'busy_ends', 'busy_ms')
  local every = tonumber(last[2] or 0)
  if last[1] then
    local gap = math.max(0, math.min(now - tonumber(last[1]), 60000)) / ends
    local old = 0.95 ^ ends
    every = (every == 0) and gap or (every * old + gap * (1 - old))
  end
  local of_slot = math.max(tonumber(last[3] or 0), slot * ENDS_SLOT)
  local kept = 0.98 ^ ends
  redis.call('HSET', room, 'ended_at', now, 'every_ms', every, slot_name, of_slot + ends,
    'busy_ends', math.floor(tonumber(last[4] or 0) * kept + ends * 1000),
    'busy_ms', math.floor(tonumber(last[5] or 0) * kept + busy_ms))
end
