-- Stores events of many jobs, publishes what it accepted, grouped by owner; ends the jobs whose last event this is.
--
--   state     who moves it      to
--   running   append            running; ended, with the last event                     here
--
-- `number` is that of the first event; `ending` is empty, or the job's end as JSON, whose `cost` settles its tenant's share.
-- Returns one letter a job: 'o' stored (or an exact repeat), 'w' stored as the job's end, and others of its model wait,
-- 'g' gap, 's' stale attempt, 'c' cancelled, 'e' ended by an operator, 'u' unknown job, 'x' this job makes the script fail.
local now = clock()
local out, ends, busy, used, crowds = {}, {}, {}, {}, {}

-- Usage is gathered, and written once for all ends of a call that are alike.
local function note_usage(id, job, told, held)
  local field, usage = usage_field(job), told.usage
  local sums = used[field]
  if told.status == 200 and type(usage) == 'table' then  -- as nearly always: nothing has to be estimated
    local queued = math.max(0, (job.taken or now) - job.admitted)
    if not sums then
      used[field] = {1, 0, 0, 0, usage.prompt_tokens, usage.cached_tokens or 0, usage.completion_tokens,
        usage.reasoning_tokens or 0, 0, 0, queued, told.run_ms or held, held}
      return
    end
    sums[1], sums[5], sums[6] = sums[1] + 1, sums[5] + usage.prompt_tokens, sums[6] + (usage.cached_tokens or 0)
    sums[7], sums[8] = sums[7] + usage.completion_tokens, sums[8] + (usage.reasoning_tokens or 0)
    sums[11], sums[12], sums[13] = sums[11] + queued, sums[12] + (told.run_ms or held), sums[13] + held
    return
  end
  local one = used_by(id, job, now, told.status == 200 and 'done' or 'failed', told)
  if not sums then used[field] = one
  else for i = 1, #one do sums[i] = sums[i] + one[i] end end
end

local function settle(id, job, told)
  local held = held_ms(job, now)
  if not job.uncounted then note_usage(id, job, told, held) end
  local cost = tonumber(told.cost) or job.cost
  settle_share(job, math.min(math.max(cost, 0), MAX_COST) - job.cost)
  ends[job.model] = (ends[job.model] or 0) + 1
  busy[job.model] = (busy[job.model] or 0) + held
end

local function write_usage()
  for field, sums in pairs(used) do count_usage(now, field, sums) end
end

-- What a job's limits are charged: nothing for a failure of which nobody heard a word.
local function used_tokens(told, events)
  if tonumber(told.status) and told.status >= 400 and events <= 1 and type(told.usage) ~= 'table' then return 0 end
  local cost = tonumber(told.cost)
  return cost and math.min(math.max(cost, 0), MAX_COST)
end

-- Whether others wait for the slot that an end frees.
local function others_wait(model)
  if crowds[model] == nil then crowds[model] = redis.call('EXISTS', NAMES.waits .. model) == 1 end
  return crowds[model] and 'w' or 'o'
end

-- By whom a job was cancelled: an operator, or whoever asked for it.
local function ended_by(key) return redis.call('HEXISTS', key, 'stopped') == 1 and 'e' or 'c' end

-- Whether a log begins with the first words of a stream.
local function is_stream(length, first, count) return length == 0 and count > 0 and string.sub(ARGV[first], 1, 1) == 'S' end

-- Adds events from one place of the arguments on to a log, and remembers them for the job's owners.
local function add(log, owners, id, nonce, number, first, count)
  for j = 0, count - 1 do
    redis.call('RPUSH', log, ARGV[first + j])
    frame(owners, id, nonce, number + j, ARGV[first + j])
  end
end

-- Events of a job that goes on: what each chunk passes. Nearly always all of them are new, so the log's length is not asked
-- for, but read off what adding them gives.
local function store_more(id, attempt, number, first, count)
  local key, log = NAMES.job .. id, NAMES.log .. id
  local known = redis.call('HMGET', key, 'attempt', 'owners', 'cancelled', 'state')
  if not known[1] then return 'u' end
  if known[1] ~= attempt or known[4] == 'ended' then return 's' end
  if known[3] == '1' then return ended_by(key) end
  if count == 0 then return number > redis.call('LLEN', log) and 'g' or 'o' end
  local nonce = nonce_of(attempt)
  local length = redis.call('RPUSH', log, ARGV[first]) - 1
  if length ~= number then
    redis.call('RPOP', log)
    if number > length then return 'g' end
    local repeated = math.min(length - number, count)  -- of a call that had timed out, with more since
    add(log, known[2], id, nonce, number + repeated, first + repeated, count - repeated)
    return 'o'
  end
  frame(known[2], id, nonce, number, ARGV[first])
  add(log, known[2], id, nonce, number + 1, first + 1, count - 1)
  if length == 0 then
    redis.call('PEXPIRE', log, math.max(60000, redis.call('PTTL', key)))
    if is_stream(length, first, count) then redis.call('HSET', key, 'begun', now) end
  end
  return 'o'
end

local function store_end(id, attempt, number, ending, first, count)
  local key, log, job = NAMES.job .. id, NAMES.log .. id, load_job(id)
  if not job then return 'u' end
  if job.attempt ~= attempt then return 's' end
  if job.state == 'ended' then return others_wait(job.model) end  -- the repeat of an end that was stored
  if job.cancelled then return ended_by(key) end
  local length = redis.call('LLEN', log)  -- asked for: nothing may be added before what can only shrink
  if number > length then return 'g' end
  leave_running(id, job)
  -- The events come before the end, so that no end is stored whose words are not.
  local repeated = math.min(length - number, count)
  add(log, job.owners, id, nonce_of(attempt), number + repeated, first + repeated, count - repeated)
  local keep_ms = keep_of(job)
  redis.call('PEXPIRE', log, keep_ms)
  local ok, told = pcall(cjson.decode, ending)
  if not ok or type(told) ~= 'table' then told = {} end
  if job.limits then job.used = used_tokens(told, number + count) end
  conclude(id, job, keep_ms, is_stream(length, first, count) and now)
  pcall(settle, id, job, told)
  return others_wait(job.model)
end

local function store(id, attempt, number, ending, first, count)
  if ending == '' then return store_more(id, attempt, number, first, count) end
  return store_end(id, attempt, number, ending, first, count)
end

for id, attempt, number, ending, first, count in rows() do
  local ok, verdict = pcall(store, id, attempt, number, ending, first, count)
  if not ok then
    local text = error_text(verdict)
    if is_refusal(text) then write_usage(); publish_frames(); return redis.error_reply(text) end
    verdict = 'x'
  end
  out[#out + 1] = verdict
end
for model, number in pairs(ends) do pcall(count_ends, model, now, number, busy[model]) end
write_usage()
publish_frames()
return table.concat(out)
