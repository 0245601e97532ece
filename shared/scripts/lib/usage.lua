-- What jobs have used, counted in the step that ends them. One hash for each hour (UTC): a field for each token, group,
-- model, lane and kind, divided by blanks, which no name holds. A value is thirteen counters (shared/usage/counters.py),
-- packed: that is two commands an end in place of a dozen.

local function usage_field(job)
  return job.tenant .. ' ' .. (job.group or '-') .. ' ' .. job.model .. ' ' .. job.lane .. ' ' .. (job.kind or 'chat.completions')
end

local function add_usage(now, field, used)
  local hour = NAMES.usage .. math.floor(now / HOUR_MS)
  local known = redis.call('HGET', hour, field)
  if not known and redis.call('HLEN', hour) >= MAX_USAGE_FIELDS then
    field = '- - - - -'  -- more than anybody reads: their sum is kept
    known = redis.call('HGET', hour, field)
  end
  local sums = known and {cmsgpack.unpack(known)} or {}
  for i = 1, #used do sums[i] = (sums[i] or 0) + used[i] end
  redis.call('HSET', hour, field, cmsgpack.pack(unpack(sums)))
  if not known then redis.call('PEXPIRE', hour, USAGE_HOURS_MS) end
end

-- No end fails because of its usage: what cannot be counted is at least known to be missing.
local function count_usage(now, field, used)
  if pcall(add_usage, now, field, used) then return end
  redis.pcall('INCRBY', NAMES.uncounted, used[1])
  redis.pcall('PEXPIRE', NAMES.uncounted, USAGE_DAYS_MS)
end

-- How long a job has held its slot; one that an older worker took does not say.
local function held_ms(job, now) return math.max(0, now - (job.taken or now)) end

-- About how many tokens of a job its readers may have got: as many as chunks bore text, or a quarter of its bytes. Of a very
-- long log the beginning stands for the rest.
local function relayed_tokens(id)
  local texts = {content = true, reasoning_content = true, reasoning = true, text = true, refusal = true, arguments = true}
  local log = NAMES.log .. id
  local length, at, seen, chunks, bytes = redis.call('LLEN', log), 0, 0, 0, 0
  while at < length and seen < MOST_ESTIMATED_BYTES do
    for _, event in ipairs(redis.call('LRANGE', log, at, at + 99)) do
      at, seen = at + 1, seen + #event
      if string.find(event, '^[CPD]') then
        for name, text in string.gmatch(event, '"(%a[%a_]*)":"(.-)"') do
          if texts[name] and text ~= '' then chunks, bytes = chunks + 1, bytes + #text end
        end
      end
    end
  end
  return at > 0 and math.ceil(math.max(chunks, bytes / 4) * length / at) or 0
end

local function counted(number) return math.max(0, math.floor(tonumber(number) or 0)) end

-- What one job has used. `outcome` is 'done', 'failed' or 'cancelled'; `told` what its worker says of its end, if it could.
-- Where the backend told nothing, or an answer was cut, what was relayed is the least, and the job counts as estimated.
local function used_by(id, job, now, outcome, told)
  local ran = job.state == 'running'
  local usage = type(told.usage) == 'table' and told.usage or {}
  local prompt, completion = counted(usage.prompt_tokens), counted(usage.completion_tokens)
  local more_prompt, more = 0, 0
  if told.status ~= 200 or not usage.prompt_tokens then
    local relayed = ran and relayed_tokens(id) or 0
    more = math.max(0, relayed - completion)
    -- A failure without a word was no answer of the backend's; what a client left, it had read.
    local was_read = ran and (outcome ~= 'failed' or relayed > 0)
    if was_read and (told.cut or not usage.prompt_tokens) then more_prompt = math.floor(job.bytes / 4) end
  end
  local held = ran and held_ms(job, now) or 0
  return {
    1, outcome == 'failed' and 1 or 0, outcome == 'cancelled' and 1 or 0, more + more_prompt > 0 and 1 or 0,
    prompt + more_prompt, counted(usage.cached_tokens), completion + more, counted(usage.reasoning_tokens), more_prompt, more,
    job.admitted > 0 and math.max(0, (ran and job.taken or now) - job.admitted) or 0, told.run_ms and counted(told.run_ms) or held, held,
  }
end

-- Counts a job that ends now, or only the slot that one which waits again has held in vain.
local function count_end(id, job, now, outcome, told)
  if job.uncounted then return end
  local ok, used = pcall(used_by, id, job, now, outcome, told or {})
  count_usage(now, usage_field(job), ok and used or {1})
end
local function count_lost_run(job, now)
  local held = held_ms(job, now)
  if held > 0 and not job.uncounted then count_usage(now, usage_field(job), {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, held}) end
end
