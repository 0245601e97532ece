-- What limits count of a job, and what its end gives back. A subject is a token, or a group of tokens. A job's facts name
-- what is kept of it with each subject, {subject, letters, second}: 'c' its place among the subject's jobs, 'w' among those
-- that wait, 't' its tokens in the second of their window, 'b' its part of the budgets.
--
-- What every request reads and writes of a subject are two packed strings, its minute and what is spent of its budgets:
-- fields of a hash would be looked for one after another, and numbers be printed and parsed. Functions stand within
-- functions here, as only what is called is made anew in each call: jobs without limits pay nothing.

local function keeps(row, letter) return string.find(row[2], letter, 1, true) ~= nil end

-- A job waits no more.
local function leave_waits(id, job)
  for _, row in ipairs(job.limits) do
    if keeps(row, 'w') then redis.call('ZREM', NAMES.subject_waits .. row[1], id) end
  end
end

-- What both who lets in and who ends jobs goes by.
local function limit_tools()
  local the_day, the_month = nil, nil

  -- What is spent of budgets in the present day and month (UTC): the day, its tokens and slot ms, the month, the same of it.
  -- They are named by days since 1970 and, below zero, by months since the year 0. Each has numbers of its own, so that a
  -- clock that steps over midnight and back finds what it had counted; those of the last ones stand in front.
  local function spent_now(spent, now)
    if not the_day then
      the_day = math.floor(now / DAY_MS)
      local since_march = the_day + 719468  -- days since 1 March of the year 0; the rest is the civil calendar from these
      local era = math.floor(since_march / 146097)
      local of_era = since_march - era * 146097
      local years = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365)
      local of_year = of_era - (365 * years + math.floor(years / 4) - math.floor(years / 100))
      local months = math.floor((5 * of_year + 2) / 153) + 2  -- from January of the year in which that March was
      the_month = -((years + era * 400) * 12 + months)
    end
    local first, day_tokens, day_ms, second, month_tokens, month_ms = the_day, 0, 0, the_month, 0, 0
    if spent then first, day_tokens, day_ms, second, month_tokens, month_ms = struct.unpack('>dddddd', spent) end
    if first ~= the_day then day_tokens, day_ms = 0, 0 end
    if second ~= the_month then month_tokens, month_ms = 0, 0 end
    if first ~= the_day or second ~= the_month then  -- its turn is over, or has not come
      for at = 1, #spent, 24 do
        local of, tokens, slot_ms = struct.unpack('>ddd', spent, at)
        if of == the_day then day_tokens, day_ms = tokens, slot_ms
        elseif of == the_month then month_tokens, month_ms = tokens, slot_ms end
      end
    end
    return the_day, day_tokens, day_ms, the_month, month_tokens, month_ms
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

  -- Counts in a window's present second, where that is the last one too.
  local function count_now(window, requests, tokens)
    window.requests, window.tokens = window.requests + requests, window.tokens + tokens
    window.own_requests, window.own_tokens = window.own_requests + requests, window.own_tokens + tokens
    redis.call('SETRANGE', NAMES.minute .. window.subject, 0, struct.pack('>dddddd', window.second, window.requests, window.tokens,
      window.promised_until, window.own_requests, window.own_tokens))
  end

  -- The windows of a minute where the second may be another: what opens one, and what counts in it.
  local function window_tools()
    -- What a subject has used in the 61 seconds up to this one: whole seconds, so at least the last 60000 ms. Nothing is written.
    -- Its present second is part of the packed minute; those before stand in a hash of their own, which is only looked at when
    -- the second changes. A clock that was set back a little stands still meanwhile; by more, and all that was used counts as
    -- of now.
    local function open_window(subject, minute, now)
      local second = math.floor(now / 1000)
      local at, requests, tokens, promised_until, own_requests, own_tokens = second, 0, 0, 0, 0, 0
      if minute then at, requests, tokens, promised_until, own_requests, own_tokens = struct.unpack('>dddddd', minute) end
      if at > second and at - second <= CLOCK_GRAIN_S then second = at end
      local window = {subject = subject, second = second, at = at, is_anew = not minute, requests = requests, tokens = tokens,
        promised_until = promised_until, own_requests = own_requests, own_tokens = own_tokens}
      if at > second then
        window.own_requests, window.own_tokens, window.promised_until, window.is_anew = requests, tokens, 0, true
      elseif at < second then
        window.past_requests, window.past_tokens, window.own_requests, window.own_tokens = own_requests, own_tokens, 0, 0
        local old = {}
        for past = at + 1, math.min(second, at + 61) do
          old[#old + 1] = 'r' .. past % 61
          old[#old + 1] = 't' .. past % 61
        end
        window.old = old
        if second - at > 60 then window.requests, window.tokens = 0, 0
        else
          local gone = redis.call('HMGET', NAMES.seconds .. subject, unpack(old))
          for j = 1, #gone, 2 do
            window.requests, window.tokens = window.requests - (gone[j] or 0), window.tokens - (gone[j + 1] or 0)
          end
        end
      end
      return window
    end

    -- Moves a window on to its present second: what has left it is forgotten, and the last second goes where it will be found.
    local function turn_window(window)
      local key = NAMES.seconds .. window.subject
      if window.is_anew then redis.call('UNLINK', key); return end
      redis.call('HDEL', key, unpack(window.old))
      if window.second - window.at <= 60 and window.past_requests + window.past_tokens > 0 then
        redis.call('HSET', key, 'r' .. window.at % 61, window.past_requests, 't' .. window.at % 61, window.past_tokens)
        redis.call('PEXPIRE', key, WINDOW_MS)
      end
    end

    -- Counts in a window's present second.
    local function charge_window(window, requests, tokens)
      local is_other = window.is_anew or window.at ~= window.second
      if is_other then turn_window(window) end
      if window.broken then redis.call('HDEL', NAMES.seconds .. window.subject, unpack(window.broken)); window.broken = nil end
      count_now(window, requests, tokens)
      if is_other then redis.call('PEXPIRE', NAMES.minute .. window.subject, WINDOW_MS) end
    end

    return open_window, charge_window
  end

  return spent_now, hold_place, count_now, window_tools
end

local the_settler = nil
local the_beginner = nil
local function limiter()
  if the_settler then return the_settler, the_beginner end
  local spent_now, hold_place, _, window_tools = limit_tools()

  local function charge_budgets(subject, spent, now, tokens, slot_ms)
    local key, day, day_tokens, day_ms, month, month_tokens, month_ms = NAMES.spent .. subject, spent_now(spent, now)
    local present = struct.pack('>dddddd', day, day_tokens + tokens, day_ms + slot_ms, month, month_tokens + tokens, month_ms + slot_ms)
    local first, second = 0, 0
    if spent then first, second = struct.unpack('>d', spent), struct.unpack('>d', spent, 25) end
    if first == day and second == month then redis.call('SETRANGE', key, 0, present); return end
    -- A day begins, or the clock has stepped.
    local kept = {present}
    for at = 1, spent and #spent or 0, 24 do
      local of = struct.unpack('>d', spent, at)
      if of ~= day and of ~= month and #kept <= MOST_PERIODS then kept[#kept + 1] = string.sub(spent, at, at + 23) end
    end
    redis.call('SET', key, table.concat(kept), 'PX', BUDGET_MS)
  end

  -- Puts the estimate of a job right where it was counted; what it used more counts now if that was over a minute ago.
  local function settle_window(subject, minute, second, more, now)
    local at, requests, tokens, promised_until, own_requests, own_tokens = -1, 0, 0, 0, 0, 0
    if minute then at, requests, tokens, promised_until, own_requests, own_tokens = struct.unpack('>dddddd', minute) end
    if second <= at and second > math.max(at, math.floor(now / 1000)) - 61 then
      local before, field = own_tokens, 't' .. second % 61
      if second < at then before = tonumber(redis.call('HGET', NAMES.seconds .. subject, field) or nil) end
      if before then
        local kept = math.max(0, before + more)
        if second < at then redis.call('HSET', NAMES.seconds .. subject, field, kept) else own_tokens = kept end
        redis.call('SETRANGE', NAMES.minute .. subject, 0, struct.pack('>dddddd', at, requests, math.max(0, tokens + kept - before),
          promised_until, own_requests, own_tokens))
        return
      end
    end
    if more > 0 then
      local open_window, charge_window = window_tools()
      charge_window(open_window(subject, minute, now), 0, more)
    end
  end

  -- What an ended job has used, in whole tokens. Of one that was cut off only what it was asked and how much it had said is
  -- known: a quarter of its bytes, and an event for each piece.
  local function tokens_used(id, job)
    if job.state == 'waiting' then return 0 end
    if job.used then return math.floor(job.used + 0.5) end
    return math.ceil(math.min(job.cost, job.bytes / 4 + redis.call('LLEN', NAMES.log .. id)))
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
    local more = tokens - math.ceil(job.cost)
    for _, row in ipairs(job.limits) do
      local subject, to_settle, to_charge = row[1], more ~= 0 and keeps(row, 't'), keeps(row, 'b') and tokens + slot_ms > 0
      if keeps(row, 'c') then redis.call('ZREM', NAMES.token_jobs .. subject, id) end
      local known = (to_settle or to_charge) and redis.call('MGET', NAMES.minute .. subject, NAMES.spent .. subject)
      if to_settle then settle_window(subject, known[1], row[3], more, now) end
      if to_charge then charge_budgets(subject, known[2], now, tokens, slot_ms) end
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
      if slot_ms > 0 and keeps(row, 'b') then
        charge_budgets(row[1], redis.call('GET', NAMES.spent .. row[1]), now, 0, slot_ms)
      end
    end
  end

  the_settler, the_beginner = settle_limits, limit_again
  return the_settler, the_beginner
end
