-- Who is let in under limits a minute, and when whoever is not shall come back. A refusal promises a place: it is kept in
-- the second in which it falls due, counts there as if it were used, and is dropped when nobody has come for 2 s.

local function gatekeeper()
  local spent_now, hold_place, count_now, window_tools = limit_tools()

  -- What is made only where a second begins, or somebody was refused lately or is now.
  local function place_tools()
    local open_window, charge_window = window_tools()

    -- What each second of a window holds, and what is promised in the seconds to come.
    local function read_window(window)
      window.seconds, window.promises = {[window.second] = {window.own_requests, window.own_tokens}}, {}
      if window.is_anew then return end
      if window.at < window.second then window.seconds[window.at] = {window.past_requests, window.past_tokens} end
      local flat = redis.call('HGETALL', NAMES.seconds .. window.subject)
      for j = 1, #flat, 2 do
        local kind, number = string.match(flat[j], '^([rtp])(%d+)$')
        number = tonumber(number)
        if kind == 'p' then
          local requests, tokens = string.match(flat[j + 1], '^(%d+) (%d+)$')
          if number + PROMISE_KEPT_S >= window.second then window.promises[number] = {tonumber(requests), tonumber(tokens)}
          else
            window.broken = window.broken or {}
            window.broken[#window.broken + 1] = flat[j]
          end
        elseif kind then
          local second = window.second - (window.second - number) % 61
          if second < window.at then
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
      local key = NAMES.seconds .. window.subject
      if promised[1] > 0 then redis.call('HSET', key, 'p' .. second, string.format('%.0f %.0f', promised[1], promised[2]))
      else redis.call('HDEL', key, 'p' .. second) end
    end

    -- Promises a place from a second on, in place of the one that was claimed, if any.
    local function promise_place(limits, key, promises, claimed, due, tokens, now)
      promises[#promises + 1] = {due, tokens}
      table.sort(promises, function(one, other) return one[1] < other[1] or one[1] == other[1] and one[2] < other[2] end)
      write_promises(key, promises, now)
      for _, limit in ipairs(limits) do
        local window = limit.window
        window.promised_until = math.max(window.promised_until, due)
        charge_window(window, 0, 0)
        if claimed then write_promised(window, claimed[1]) end
        count_promise(window, due, 1, tokens)
        write_promised(window, due)
        redis.call('PEXPIRE', NAMES.seconds .. window.subject, WINDOW_MS)
        redis.call('PEXPIRE', NAMES.minute .. window.subject, WINDOW_MS)
      end
    end

    -- How many ms until a request may come in, 0 for now; and what it claims, to be handed to `take_places` when it is let in.
    local function wait_for_place(limits, promised_to, is_retry, tokens, now)
      local present, is_free, is_promised = 0, true, false
      for _, limit in ipairs(limits) do
        local window = open_window(limit.subject, limit.minute, now)
        limit.window = window
        present = math.max(present, window.second)
        is_promised = is_promised or window.promised_until + PROMISE_KEPT_S >= window.second
        is_free = is_free and (limit.requests == 0 or window.requests < limit.requests)
          and (limit.tokens == 0 or window.tokens + tokens <= limit.tokens)
      end
      if is_free and not is_promised then return 0, nil end
      local key = NAMES.promise .. promised_to
      for _, limit in ipairs(limits) do read_window(limit.window) end
      local promises = read_promises(key, present)
      local claimed = promises[1] and (is_retry or promises[1][1] <= present) and table.remove(promises, 1) or nil
      if claimed then
        for _, limit in ipairs(limits) do count_promise(limit.window, claimed[1], -1, claimed[2]) end
      end
      local due = first_fit(limits, present, tokens)
      if due == present then return 0, {key = key, claimed = claimed, promises = promises} end
      -- Who comes back too early keeps its place; equal bodies of other clients get one each.
      if claimed and claimed[1] > present then return claimed[1] * 1000 - now, nil end
      if not due then return PROMISE_S * 1000, nil end
      promise_place(limits, key, promises, claimed, due, tokens, now)
      return due * 1000 - now, nil
    end

    -- Counts a request that is let in.
    local function take_places(limits, claim, tokens, now)
      local claimed = claim and claim.claimed
      for _, limit in ipairs(limits) do
        charge_window(limit.window, 1, tokens)
        limit.window.at = limit.window.second
        if claimed then write_promised(limit.window, claimed[1]) end
      end
      if claimed then write_promises(claim.key, claim.promises, now) end
    end

    return wait_for_place, take_places
  end

  -- Opens the windows of requests that come within a second in which others did, where nothing stands in their way; false where
  -- `wait_for_place` must look. Nothing is written.
  local function open_quickly(limits, tokens, now)
    local second = math.floor(now / 1000)
    for _, limit in ipairs(limits) do
      if not limit.minute then return false end
      local at, requests, used, promised_until, own_requests, own_tokens = struct.unpack('>dddddd', limit.minute)
      if at < second or at - second > CLOCK_GRAIN_S or promised_until + PROMISE_KEPT_S >= at
        or (limit.requests > 0 and requests >= limit.requests) or (limit.tokens > 0 and used + tokens > limit.tokens) then
        return false
      end
      limit.window = {subject = limit.subject, second = at, at = at, requests = requests, tokens = used,
        promised_until = promised_until, own_requests = own_requests, own_tokens = own_tokens}
    end
    return true
  end

  -- Tells of the requests and tokens a minute, of whichever subject has least left: limit, remaining, ms until all is free.
  local function tell_rates(limits, now, rates)
    for i = 1, 6 do rates[i] = 0 end
    for _, limit in ipairs(limits) do
      local window = limit.window
      local free_ms = math.max(0, (math.min(window.at, window.second) + 61) * 1000 - now)
      local left, tokens_left = math.max(0, limit.requests - window.requests), math.max(0, limit.tokens - window.tokens)
      if limit.requests > 0 and (rates[1] == 0 or left < rates[2]) then
        rates[1], rates[2], rates[3] = limit.requests, left, window.requests > 0 and free_ms or 0
      end
      if limit.tokens > 0 and (rates[4] == 0 or tokens_left < rates[5]) then
        rates[4], rates[5], rates[6] = limit.tokens, tokens_left, window.tokens > 0 and free_ms or 0
      end
    end
  end

  local take_places, the_claim = nil, nil

  -- Whether limits refuse a request: verdict, ms until it may come again and what it breaks ({subject, limit, its number, used,
  -- wanted}), or nil. Nothing is counted but a place that is promised.
  local function judge_limits(limits, promised_to, is_retry, tokens, now, rates)
    local minutely, names = {}, {}
    for k, limit in ipairs(limits) do
      names[2 * k - 1], names[2 * k] = NAMES.minute .. limit.subject, NAMES.spent .. limit.subject
    end
    local known = redis.call('MGET', unpack(names))
    for k, limit in ipairs(limits) do
      limit.minute = known[2 * k - 1]
      if limit.requests + limit.tokens > 0 then minutely[#minutely + 1] = limit end
      if limit.tokens > 0 and tokens > limit.tokens then
        return 'large', 0, {limit.subject, 'tokens_per_minute', limit.tokens, 0, tokens}
      end
      if known[2 * k] then
        local _, day_tokens, day_ms, _, month_tokens, month_ms = spent_now(known[2 * k], now)
        for i, used in ipairs({day_tokens, month_tokens, day_ms, month_ms}) do
          local most = limit.budgets[i]
          if most > 0 and used >= most then
            local BUDGETS = {'tokens_per_day', 'tokens_per_month', 'slot_seconds_per_day', 'slot_seconds_per_month'}
            return 'budget', 0, {limit.subject, BUDGETS[i], most, used, 0}
          end
        end
      end
      if limit.jobs > 0 and redis.call('ZCARD', NAMES.token_jobs .. limit.subject) >= limit.jobs then
        -- Some of them may have ended with a Redis that was lost. They are only counted here: a write that frees memory would
        -- let all later ones pass at maxmemory.
        local jobs = redis.call('ZCOUNT', NAMES.token_jobs .. limit.subject, now + 1, '+inf')
        if jobs >= limit.jobs then return 'jobs', 1000, {limit.subject, 'concurrent_jobs', limit.jobs, jobs, 1} end
      end
    end
    if not minutely[1] then return nil end
    limits.minutely = minutely
    if open_quickly(minutely, tokens, now) then return nil end
    local wait_for_place, wait_ms
    wait_for_place, take_places = place_tools()
    wait_ms, the_claim = wait_for_place(minutely, promised_to, is_retry, tokens, now)
    if wait_ms == 0 then return nil end
    tell_rates(minutely, now, rates)
    -- The limit that is met first is told, or, where only promised places stand before it, the first.
    for _, limit in ipairs(minutely) do
      local window = limit.window
      if limit.requests > 0 and window.requests >= limit.requests then
        return 'rate', wait_ms, {limit.subject, 'requests_per_minute', limit.requests, window.requests, 1}
      elseif limit.tokens > 0 and window.tokens + tokens > limit.tokens then
        return 'rate', wait_ms, {limit.subject, 'tokens_per_minute', limit.tokens, window.tokens, tokens}
      end
    end
    local first = minutely[1]
    if first.requests > 0 then return 'rate', wait_ms, {first.subject, 'requests_per_minute', first.requests, first.window.requests, 1} end
    return 'rate', wait_ms, {first.subject, 'tokens_per_minute', first.tokens, first.window.tokens, tokens}
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
  local function charge_limits(id, limits, tokens, now, life_ms, deadline, must_wait, rates)
    if limits.minutely then
      if take_places then take_places(limits.minutely, the_claim, tokens, now)
      else for _, limit in ipairs(limits.minutely) do count_now(limit.window, 1, tokens) end end
      tell_rates(limits.minutely, now, rates)
    end
    for _, limit in ipairs(limits) do
      if limit.jobs > 0 then hold_place(NAMES.token_jobs .. limit.subject, id, now, now + life_ms, life_ms) end
      if limit.waits > 0 and must_wait then hold_place(NAMES.subject_waits .. limit.subject, id, now, deadline, life_ms) end
    end
  end

  return judge_limits, kept_limits, charge_limits
end
