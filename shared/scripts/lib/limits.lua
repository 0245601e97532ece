-- What limits count of a job, and what its end gives back. A subject is a token, or a group of tokens. A job's facts name
-- what is kept of it with each subject, {subject, letters, second}: 'c' its place among the subject's jobs, 'w' among those
-- that wait, 't' its tokens in the second of their window, 'b' its part of the budgets.

local function keeps(row, letter) return string.find(row[2], letter, 1, true) ~= nil end

-- A job waits no more.
local function leave_waits(id, job)
  for _, row in ipairs(job.limits) do
    if keeps(row, 'w') then redis.call('ZREM', NAMES.subject_waits .. row[1], id) end
  end
end

-- All of the rest is within one function, as only what is called is made anew for each call, and once: jobs without limits
-- pay nothing.
local the_limiter = nil
local function make_limiter()
  -- The day and the month (UTC) as budgets name them. Each has fields of its own, so that a clock that steps over midnight
  -- and back finds what it had counted. Returns the fields of tokens a day and a month, and of slot time a day and a month.
  local the_fields = nil
  local function periods(now)
    if the_fields then return the_fields end
    local days = math.floor(now / DAY_MS)
    local since_march = days + 719468  -- days since 1 March of the year 0; the rest is the civil calendar from these
    local era = math.floor(since_march / 146097)
    local of_era = since_march - era * 146097
    local years = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
    local of_year = of_era - (365 * years + math.floor(years / 4) - math.floor(years / 100))
    local months = math.floor((5 * of_year + 2) / 153) + 2  -- from January of the year in which that March was
    local day, month = 'd' .. days, 'm' .. (years + era * 400) * 12 + months
    the_fields = {day .. 't', month .. 't', day .. 's', month .. 's'}
    return the_fields
  end

  local function charge_budgets(subject, now, tokens, slot_ms)
    local key, fields = NAMES.budget .. subject, periods(now)
    local used = redis.call('HMGET', key, unpack(fields))
    redis.call('HSET', key, fields[1], (used[1] or 0) + tokens, fields[2], (used[2] or 0) + tokens,
      fields[3], (used[3] or 0) + slot_ms, fields[4], (used[4] or 0) + slot_ms)
    if used[1] then return end
    redis.call('PEXPIRE', key, BUDGET_MS)  -- a day begins
    if redis.call('HLEN', key) <= 2 * MOST_PERIODS then return end
    local present = {[fields[1]] = true, [fields[2]] = true, [fields[3]] = true, [fields[4]] = true}
    for _, field in ipairs(redis.call('HKEYS', key)) do
      if not present[field] then redis.call('HDEL', key, field) end
    end
  end

  -- What a subject has used in the 61 seconds up to this one: whole seconds, so at least the last 60000 ms. Nothing is written.
  -- A clock that was set back a little stands still meanwhile; by more, and all that was used counts as of now.
  local function open_window(subject, now)
    local key, second = NAMES.window .. subject, math.floor(now / 1000)
    local r, t = 'r' .. second % 61, 't' .. second % 61
    local v = redis.call('HMGET', key, 'at', 'r', 't', 'until', r, t)
    local at = tonumber(v[1] or second)
    if at > second and at - second <= CLOCK_GRAIN_S then
      second, r, t = at, 'r' .. at % 61, 't' .. at % 61
      v = redis.call('HMGET', key, 'at', 'r', 't', 'until', r, t)
    end
    local window = {key = key, second = second, at = at, r = r, t = t, is_new = not v[1], requests = tonumber(v[2] or 0), tokens = tonumber(v[3] or 0),
      promised_until = tonumber(v[4] or 0), own_requests = tonumber(v[5] or 0), own_tokens = tonumber(v[6] or 0), old = {}}
    if at > second then
      window.own_requests, window.own_tokens, window.promised_until, window.is_anew = window.requests, window.tokens, 0, true
    elseif at < second then
      window.own_requests, window.own_tokens = 0, 0
      local old = window.old
      for past = at + 1, math.min(second, at + 61) do
        old[#old + 1] = 'r' .. past % 61
        old[#old + 1] = 't' .. past % 61
      end
      if second - at > 60 then window.requests, window.tokens = 0, 0
      else
        local gone = redis.call('HMGET', key, unpack(old))
        for j = 1, #gone, 2 do
          window.requests, window.tokens = window.requests - (gone[j] or 0), window.tokens - (gone[j + 1] or 0)
        end
      end
    end
    return window
  end

  -- Counts in a window's present second, and forgets what has left it.
  local function charge_window(window, requests, tokens)
    if window.is_anew then redis.call('DEL', window.key) elseif #window.old > 0 then redis.call('HDEL', window.key, unpack(window.old)) end
    window.requests, window.tokens = window.requests + requests, window.tokens + tokens
    window.own_requests, window.own_tokens = window.own_requests + requests, window.own_tokens + tokens
    redis.call('HSET', window.key, 'at', window.second, 'r', window.requests, 't', window.tokens,
      window.r, window.own_requests, window.t, window.own_tokens)
    if window.is_new or window.at ~= window.second then redis.call('PEXPIRE', window.key, WINDOW_MS) end
  end

  -- Puts the estimate of a job right where it was counted; what it used more counts now if that was over a minute ago.
  local function settle_window(subject, second, more, now)
    local key, field = NAMES.window .. subject, 't' .. second % 61
    local known = redis.call('HMGET', key, 'at', 't', field)
    local at = tonumber(known[1] or -1)
    if second <= at and second > math.max(at, math.floor(now / 1000)) - 61 and known[3] then
      local kept = math.max(0, known[3] + more)
      redis.call('HSET', key, 't', math.max(0, known[2] + kept - known[3]), field, kept)
    elseif more > 0 then charge_window(open_window(subject, now), 0, more) end
  end

  -- What an ended job has used, in whole tokens. Of one that was cut off only what it was asked and how much it had said is
  -- known: a quarter of its bytes, and an event for each piece.
  local function tokens_used(id, job)
    if job.state == 'waiting' then return 0 end
    if job.used then return math.floor(job.used + 0.5) end
    return math.ceil(math.min(job.cost, job.bytes / 4 + redis.call('LLEN', NAMES.log .. id)))
  end

  -- Counts a job among a subject's until `until_ms`. The key has at least the job's life to live; to say so costs a write,
  -- and with it goes what Redis has lost the ends of: nobody counts that.
  local function hold_place(key, id, now, until_ms, life_ms)
    redis.call('ZADD', key, until_ms, id)
    if redis.call('PTTL', key) < life_ms then
      redis.call('PEXPIRE', key, 2 * life_ms)
      redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    end
  end

  -- How long a job has held its slot: never longer than it may live, should the clock have been set on meanwhile.
  local function slot_ms_of(job, now)
    return math.min(math.max(0, now - (job.taken or now)), tonumber(job.life) or DAY_MS)
  end

  -- Gives back what an ended job held, and charges what it has used.
  local function settle_limits(id, job)
    local now = clock()
    local tokens, slot_ms = tokens_used(id, job), job.state == 'waiting' and 0 or slot_ms_of(job, now)
    if job.state == 'waiting' then leave_waits(id, job) end
    for _, row in ipairs(job.limits) do
      if keeps(row, 'c') then redis.call('ZREM', NAMES.token_jobs .. row[1], id) end
      local more = tokens - math.ceil(job.cost)
      if more ~= 0 and keeps(row, 't') then settle_window(row[1], row[3], more, now) end
      if keeps(row, 'b') and (tokens > 0 or slot_ms > 0) then charge_budgets(row[1], now, tokens, slot_ms) end
    end
  end

  -- A job waits again: the slot that it had was used all the same.
  local function limit_again(id, job, now, life_ms, deadline)
    for _, row in ipairs(job.limits) do
      if keeps(row, 'c') and redis.call('ZREM', NAMES.token_jobs .. row[1], id) == 1 then
        hold_place(NAMES.token_jobs .. row[1], id, now, now + life_ms, life_ms)
      end
      if keeps(row, 'w') then hold_place(NAMES.subject_waits .. row[1], id, now, deadline, life_ms) end
      local slot_ms = slot_ms_of(job, now)
      if slot_ms > 0 and keeps(row, 'b') then charge_budgets(row[1], now, 0, slot_ms) end
    end
  end

  return {settle = settle_limits, begin_again = limit_again, periods = periods, open_window = open_window,
    charge_window = charge_window, hold_place = hold_place}
end

local function limiter()
  the_limiter = the_limiter or make_limiter()
  return the_limiter
end
