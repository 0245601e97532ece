-- Stores events of many jobs, publishes what it accepted, grouped by owner; ends the jobs whose last event this is.
--
--   state     who moves it      to
--   running   append            running; ended, with the last event                     here
--
-- `number` is that of the first event; `ending` is empty, or the job's end as JSON, whose `cost` settles its tenant's share.
-- Returns one letter a job: 'o' stored (or an exact repeat), 'w' stored as the job's end, and others of its model wait,
-- 'g' gap, 's' stale attempt, 'c' cancelled, 'u' unknown job, 'x' this job makes the script fail.
local now = clock()
local out, ends, busy = {}, {}, {}

local function settle(job, ending)
  local ok, told = pcall(cjson.decode, ending)
  local cost = ok and type(told) == 'table' and tonumber(told.cost) or job.cost
  settle_share(job, math.min(math.max(cost, 0), MAX_COST) - job.cost)
  ends[job.model] = (ends[job.model] or 0) + 1
  busy[job.model] = (busy[job.model] or 0) + held_ms(job, now)
end

-- What a job's limits are charged: nothing for a failure of which nobody heard a word.
local function used_tokens(job, ending, length)
  local ok, told = pcall(cjson.decode, ending)
  if not ok or type(told) ~= 'table' then return nil end
  if tonumber(told.status) and told.status >= 400 and length == 0 and type(told.usage) ~= 'table' then return 0 end
  local cost = tonumber(told.cost)
  return cost and math.min(math.max(cost, 0), MAX_COST)
end

local function store(id, attempt, number, ending, first, count)
  local key, log = NAMES.job .. id, NAMES.log .. id
  local known = redis.call('HMGET', key, 'attempt', 'owners', 'cancelled', 'state')
  if not known[1] then return 'u' end
  if known[1] ~= attempt then return 's' end
  if known[4] == 'ended' then  -- the repeat of an end that was stored, if it is one
    local ended = ending ~= '' and load_job(id)
    return ended and (redis.call('EXISTS', NAMES.waits .. ended.model) == 1 and 'w' or 'o') or 's'
  end
  if known[3] ~= '' then return 'c' end
  local length = redis.call('LLEN', log)
  if number > length then return 'g' end
  local job = nil
  if ending ~= '' then
    job = load_job(id)
    if not job then return 'u' end
    leave_running(id, job)
  end
  local begins = length == 0 and count > 0 and string.sub(ARGV[first], 1, 1) == 'S'  -- a stream
  -- The events come before the end, so that no end is stored whose words are not.
  local nonce = nonce_of(attempt)
  for j = length - number, count - 1 do  -- a repeat that overlaps adds only what is new
    local payload = ARGV[first + j]
    redis.call('RPUSH', log, payload)
    frame(known[2], id, nonce, number + j, payload)
  end
  if not job then
    if length == 0 and count > 0 then
      redis.call('PEXPIRE', log, math.max(60000, redis.call('PTTL', key)))
      if begins then redis.call('HSET', key, 'begun', now) end
    end
    return 'o'
  end
  local keep_ms = keep_of(job)
  redis.call('PEXPIRE', log, keep_ms)
  if job.limits then job.used = used_tokens(job, ending, length) end
  conclude(id, job, keep_ms, begins and now)
  pcall(settle, job, ending)
  return redis.call('EXISTS', NAMES.waits .. job.model) == 1 and 'w' or 'o'
end

for id, attempt, number, ending, first, count in rows() do
  local ok, verdict = pcall(store, id, attempt, number, ending, first, count)
  if not ok then
    local text = error_text(verdict)
    if is_refusal(text) then publish_frames(); return redis.error_reply(text) end
    verdict = 'x'
  end
  out[#out + 1] = verdict
end
for model, number in pairs(ends) do pcall(count_ends, model, now, number, busy[model]) end
publish_frames()
return table.concat(out)
