-- Who is let in under limits a minute, and when whoever is not shall come back. A refusal promises a place: it is kept in
-- the second in which it falls due, counts there as if it were used, and is dropped when nobody has come for 2 s.

local function gatekeeper()
  local counting = make_limiter()
  local periods, open_window, charge_window, hold_place = counting.periods, counting.open_window, counting.charge_window, counting.hold_place

  -- What is looked at only where somebody was refused lately, or is now.
  local function promiser(charge_window)
    -- What each second of a window holds, and what is promised in the seconds to come.
    local function read_window(window)
      window.seconds, window.promises = {}, {}
      if window.is_anew then
        window.seconds[window.second] = {window.own_requests, window.own_tokens}
        return
      end
      local flat = redis.call('HGETALL', window.key)
      for j = 1, #flat, 2 do
        local kind, number = string.match(flat[j], '^([rtp])(%d+)$')
        number = tonumber(number)
        if kind == 'p' then
          local requests, tokens = string.match(flat[j + 1], '^(%d+) (%d+)$')
          if number + PROMISE_KEPT_S >= window.second then window.promises[number] = {tonumber(requests), tonumber(tokens)}
          else window.old[#window.old + 1] = flat[j] end
        elseif kind then
          local second = window.second - (window.second - number) % 61
          if second <= window.at then
            local held = window.seconds[second] or {0, 0}
            held[kind == 'r' and 1 or 2] = tonumber(flat[j + 1])
            window.seconds[second] = held
          end
        end
      end
    end

    -- The first second from which on a request of so many tokens can be let in, under all limits: no 61 seconds together may
    -- hold too much. Who is promised a place may come 2 s late. nil: none within PROMISE_S.
    local function first_fit(limits, present, tokens)
      local sums = {}
      for k, limit in ipairs(limits) do
        local window = limit.window
        sums[k] = {window.requests, window.tokens}
        for due, promised in pairs(window.promises) do
          if due <= window.second then sums[k] = {sums[k][1] + promised[1], sums[k][2] + promised[2]} end
        end
      end
      local start = present
      for second = present - CLOCK_GRAIN_S, present + PROMISE_S + 64 do
        local is_over = false
        for k, limit in ipairs(limits) do
          local window, sum = limit.window, sums[k]
          if second > window.second then
            local gone, over, due = window.seconds[second - 61], window.promises[second - 61 - PROMISE_KEPT_S], window.promises[second]
            sum[1] = sum[1] - (gone and gone[1] or 0) - (over and over[1] or 0) + (due and due[1] or 0)
            sum[2] = sum[2] - (gone and gone[2] or 0) - (over and over[2] or 0) + (due and due[2] or 0)
          end
          is_over = is_over or (limit.requests > 0 and sum[1] + 1 > limit.requests) or (limit.tokens > 0 and sum[2] + tokens > limit.tokens)
        end
        if second >= start then
          if is_over then start = second + 1
          elseif second - start >= (start == present and 60 or 60 + PROMISE_KEPT_S) then return start end
          if start > present + PROMISE_S then return nil end
        end
      end
      return nil
    end

    -- The places that are promised to a token and body, {second, tokens} each, the first due first.
    local function read_promises(key, present)
      local found = {}
      for due, tokens in string.gmatch(redis.call('GET', key) or '', '(%d+):(%d+)') do
        if tonumber(due) + PROMISE_KEPT_S >= present then found[#found + 1] = {tonumber(due), tonumber(tokens)} end
      end
      return found
    end

    local function write_promises(key, promises, now)
      if #promises == 0 then redis.call('DEL', key); return end
      local words = {}
      for j, promise in ipairs(promises) do words[j] = string.format('%.0f:%.0f', promise[1], promise[2]) end
      redis.call('SET', key, table.concat(words, ' '), 'PX', math.max(1, (promises[#promises][1] + PROMISE_KEPT_S + 1) * 1000 - now))
    end

    -- Counts a place that is promised in a second of a window, or, with -1, that is promised no more.
    local function count_promise(window, second, requests, tokens)
      local known = window.promises[second] or {0, 0}
      window.promises[second] = {math.max(0, known[1] + requests), math.max(0, known[2] + requests * tokens)}
    end

    local function write_promised(window, second)
      local promised = window.promises[second]
      if promised[1] > 0 then redis.call('HSET', window.key, 'p' .. second, string.format('%.0f %.0f', promised[1], promised[2]))
      else redis.call('HDEL', window.key, 'p' .. second) end
    end

    -- Promises a place from a second on, in place of the one that was claimed, if any.
    local function promise_place(limits, key, promises, claimed, due, tokens, now)
      promises[#promises + 1] = {due, tokens}
      table.sort(promises, function(one, other) return one[1] < other[1] or one[1] == other[1] and one[2] < other[2] end)
      write_promises(key, promises, now)
      for _, limit in ipairs(limits) do
        local window = limit.window
        charge_window(window, 0, 0)
        redis.call('PEXPIRE', window.key, WINDOW_MS)
        if claimed then write_promised(window, claimed[1]) end
        count_promise(window, due, 1, tokens)
        write_promised(window, due)
        redis.call('HSET', window.key, 'until', math.max(window.promised_until, due))
      end
    end

    return {read_window = read_window, first_fit = first_fit, read = read_promises, write = write_promises, count = count_promise,
      write_promised = write_promised, promise_place = promise_place}
  end

  -- How many ms until a request may come in, 0 for now; and what it claims, to be handed to `take_place` when it is let in.
  local function wait_for_place(limits, promised_to, is_retry, tokens, now)
    local present, is_free, is_promised = 0, true, false
    for _, limit in ipairs(limits) do
      local window = open_window(limit.subject, now)
      limit.window = window
      present = math.max(present, window.second)
      is_promised = is_promised or window.promised_until + PROMISE_KEPT_S >= window.second
      is_free = is_free and (limit.requests == 0 or window.requests < limit.requests)
        and (limit.tokens == 0 or window.tokens + tokens <= limit.tokens)
    end
    if is_free and not is_promised then return 0, nil end
    local places, key = promiser(charge_window), NAMES.promise .. promised_to
    for _, limit in ipairs(limits) do places.read_window(limit.window) end
    local promises = places.read(key, present)
    local claimed = promises[1] and (is_retry or promises[1][1] <= present) and table.remove(promises, 1) or nil
    if claimed then
      for _, limit in ipairs(limits) do places.count(limit.window, claimed[1], -1, claimed[2]) end
    end
    local due = places.first_fit(limits, present, tokens)
    if due == present then return 0, {key = key, claimed = claimed, promises = promises, places = places} end
    -- Who comes back too early keeps its place; equal bodies of other clients get one each.
    if claimed and claimed[1] > present then return claimed[1] * 1000 - now, nil end
    if not due then return PROMISE_S * 1000, nil end
    places.promise_place(limits, key, promises, claimed, due, tokens, now)
    return due * 1000 - now, nil
  end

  -- Counts a request that is let in.
  local function take_place(limits, claim, tokens, now)
    for _, limit in ipairs(limits) do
      charge_window(limit.window, 1, tokens)
      limit.window.at = limit.window.second
      if claim and claim.claimed then claim.places.write_promised(limit.window, claim.claimed[1]) end
    end
    if claim and claim.claimed then claim.places.write(claim.key, claim.promises, now) end
  end

  local BUDGETS = {'tokens_per_day', 'tokens_per_month', 'slot_seconds_per_day', 'slot_seconds_per_month'}

  -- What a budget has left nothing of: {subject, name, limit, used, 0}; nil where all have.
  local function spent_budget(limit, now)
    local most = limit.budgets
    if most[1] + most[2] + most[3] + most[4] == 0 then return nil end
    local used = redis.call('HMGET', NAMES.budget .. limit.subject, unpack(periods(now)))
    for i = 1, 4 do
      if most[i] > 0 and used[i] then
        local number = tonumber(used[i])
        if number >= most[i] then return {limit.subject, BUDGETS[i], most[i], number, 0} end
      end
    end
    return nil
  end

  -- Tells of the requests and tokens a minute, of whichever subject has least left: limit, remaining, ms until all is free.
  local function tell_rates(limits, now, rates)
    for i = 1, 6 do rates[i] = 0 end
    local function tell(at, most, used, window)
      local left = math.max(0, most - used)
      if most > 0 and (rates[at] == 0 or left < rates[at + 1]) then
        rates[at], rates[at + 1] = most, left
        rates[at + 2] = used > 0 and math.max(0, (math.min(window.at, window.second) + 61) * 1000 - now) or 0
      end
    end
    for _, limit in ipairs(limits) do
      tell(1, limit.requests, limit.window.requests, limit.window)
      tell(4, limit.tokens, limit.window.tokens, limit.window)
    end
  end

  -- Whether limits refuse a request: verdict and ms until it may come again, or nil, nil and what it claims. Nothing is counted
  -- but a place that is promised.
  local function judge_limits(limits, promised_to, is_retry, tokens, now, rates, breach)
    local function found(verdict, number, told)
      for i, value in ipairs(told) do breach[i] = value end
      return verdict, number
    end
    local minutely = {}
    for _, limit in ipairs(limits) do
      if limit.requests + limit.tokens > 0 then minutely[#minutely + 1] = limit end
      if limit.tokens > 0 and tokens > limit.tokens then
        return found('large', 0, {limit.subject, 'tokens_per_minute', limit.tokens, 0, tokens})
      end
      local spent = spent_budget(limit, now)
      if spent then return found('budget', 0, spent) end
      -- Only counted here: a write that frees memory would let all later ones pass at maxmemory.
      local jobs = limit.jobs > 0 and redis.call('ZCOUNT', NAMES.token_jobs .. limit.subject, now + 1, '+inf') or 0
      if limit.jobs > 0 and jobs >= limit.jobs then return found('jobs', 1000, {limit.subject, 'concurrent_jobs', limit.jobs, jobs, 1}) end
    end
    if not minutely[1] then return nil end
    limits.minutely = minutely
    local wait_ms, claim = wait_for_place(minutely, promised_to, is_retry, tokens, now)
    if wait_ms == 0 then return nil, nil, claim end
    tell_rates(minutely, now, rates)
    -- The limit that is met first is told, or, where only promised places stand before it, the first.
    for _, limit in ipairs(minutely) do
      local window = limit.window
      if limit.requests > 0 and window.requests >= limit.requests then
        return found('rate', wait_ms, {limit.subject, 'requests_per_minute', limit.requests, window.requests, 1})
      elseif limit.tokens > 0 and window.tokens + tokens > limit.tokens then
        return found('rate', wait_ms, {limit.subject, 'tokens_per_minute', limit.tokens, window.tokens, tokens})
      end
    end
    local first = minutely[1]
    if first.requests > 0 then return found('rate', wait_ms, {first.subject, 'requests_per_minute', first.requests, first.window.requests, 1}) end
    return found('rate', wait_ms, {first.subject, 'tokens_per_minute', first.tokens, first.window.tokens, tokens})
  end

  -- Which subject has as many waiting jobs as it may: as a breach.
  local function waits_breach(limits, now)
    for _, limit in ipairs(limits) do
      local number = limit.waits > 0 and redis.call('ZCOUNT', NAMES.subject_waits .. limit.subject, now + 1, '+inf') or 0
      if limit.waits > 0 and number >= limit.waits then return {limit.subject, 'waiting_jobs', limit.waits, number, 1} end
    end
    return nil
  end

  -- What a job's facts say of its limits, to be added to them; and, for older versions, the token whose concurrent jobs it
  -- is among.
  local function kept_limits(limits, only_budgets)
    local kept, token = {}, ''
    for _, limit in ipairs(limits) do
      local most, letters = limit.budgets, ''
      if not only_budgets then
        letters = (limit.jobs > 0 and 'c' or '') .. (limit.waits > 0 and 'w' or '') .. (limit.tokens > 0 and 't' or '')
        if limit.jobs > 0 and not string.find(limit.subject, ':', 1, true) then token = ',"token":"' .. limit.subject .. '"' end
      end
      if most[1] + most[2] + most[3] + most[4] > 0 then letters = letters .. 'b' end
      if letters ~= '' then
        kept[#kept + 1] = '["' .. limit.subject .. '","' .. letters .. '",' .. (limit.window and limit.window.second or 0) .. ']'
      end
    end
    return kept[1] and ',"limits":[' .. table.concat(kept, ',') .. ']' .. token or ''
  end

  -- Counts a job that is let in.
  local function charge_limits(id, limits, claim, tokens, now, life_ms, deadline, must_wait, rates)
    if limits.minutely then
      take_place(limits.minutely, claim, tokens, now)
      tell_rates(limits.minutely, now, rates)
    end
    for _, limit in ipairs(limits) do
      if limit.jobs > 0 then hold_place(NAMES.token_jobs .. limit.subject, id, now, now + life_ms, life_ms) end
      if limit.waits > 0 and must_wait then hold_place(NAMES.subject_waits .. limit.subject, id, now, deadline, life_ms) end
    end
  end

  return {judge = judge_limits, waits_breach = waits_breach, kept = kept_limits, charge = charge_limits}
end
