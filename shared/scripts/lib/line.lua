-- Where waiting jobs stand, and how fast their line moves. All of it is within one function, as only what is called is made
-- anew for each call: whom a free slot takes at once pays nothing for it.

local function line_teller()
  -- The lanes' weights, which travel as one argument: few calls need them.
  local function weights_of(text)
    local weights = {}
    for number in string.gmatch(text, '%S+') do weights[#weights + 1] = tonumber(number) end
    return weights
  end

  -- The groups of which somebody waits, by their lanes: for each its name, head's place, size and weight.
  local function groups_now(model)
    local lanes, known = {}, redis.call('HGETALL', NAMES.groups .. model)
    for i = 1, #known, 2 do
      local lane, group = string.match(known[i], '^(%a+):(.+)$')
      local members = members_key({lane = lane, group = group, model = model})
      local head = redis.call('ZRANGE', members, 0, 0)[1]
      local place = head and redis.call('ZSCORE', lane_key(lane, model), head)
      if place then
        lanes[lane] = lanes[lane] or {}
        table.insert(lanes[lane], {name = group, place = tonumber(place), size = redis.call('ZCARD', members), weight = tonumber(known[i + 1])})
      end
    end
    return lanes
  end

  -- Where the lanes of a model stand, as `take` will judge them: how many wait in each, and its pass. The batch lane counts as
  -- empty while the reserve keeps it shut.
  local function lanes_now(model, concurrency, batch_reserve)
    local passes = redis.call('HMGET', NAMES.room .. model, 'pass:priority', 'pass:default', 'pass:flex', 'pass:batch', 'grouped')
    local lanes = {groups = passes[5] and groups_now(model)}
    for i, lane in ipairs({'priority', 'default', 'flex', 'batch'}) do
      lanes[i] = {name = lane, pass = tonumber(passes[i] or 0), size = redis.call('ZCARD', lane_key(lane, model))}
    end
    if batch_reserve > 0 and lanes[4].size > 0
      and redis.call('SCARD', NAMES.batch_running .. model) + batch_reserve >= concurrency then lanes[4].size = 0 end
    return lanes
  end

  -- How many of its own lane go before a job, as if all cost what it does: a group's turns come every cost / weight.
  local function rank_in_lane(id, model, lane, groups)
    local key = lane_key(lane, model)
    local rank = redis.call('ZRANK', key, id)
    local job = rank and groups and load_job(id)
    if not job then return rank end
    local place, cost = tonumber(redis.call('ZSCORE', key, id)), math.max(1, job.cost)
    local before = rank
    if place == math.huge then
      local own = nil
      for _, one in ipairs(groups) do if one.name == job.group then own = one end end
      local among = own and redis.call('ZRANK', members_key(job), id)
      if not among then return rank end
      place = own.place + among * cost / own.weight
      before = redis.call('ZCOUNT', key, '-inf', '(' .. place) - 1 + among
    end
    for _, one in ipairs(groups) do
      if one.name ~= job.group and one.place < place then
        before = before + math.min(one.size - 1, math.floor((place - one.place) * one.weight / cost))
      end
    end
    return before
  end

  -- How many jobs of a model go before a waiting one: those before it in its own lane, and of each other lane those whose
  -- turns come first. -1: it does not wait. O(log n), however many wait.
  local function jobs_before(id, model, lane, lanes, weights)
    local rank = rank_in_lane(id, model, lane, lanes.groups and lanes.groups[lane])
    if not rank then return -1 end
    local turn, own = nil, nil
    for i, one in ipairs(lanes) do if one.name == lane then own, turn = i, one.pass + rank / weights[i] end end
    if not own then return rank end
    local before = rank
    for i, one in ipairs(lanes) do
      if i ~= own and one.size > 0 then
        -- Turns at the same pass go to the lane that is named first. A pass is a sum of parts, so it is compared with a grain.
        local turns = (turn - one.pass) * weights[i]
        local first = i < own and math.floor(turns + 0.001) + 1 or math.ceil(turns - 0.001)
        before = before + math.max(0, math.min(one.size, first))
      end
    end
    return before
  end

  -- How fast a model's line moves: {mean ms that a job holds its slot (0: not known yet), running jobs, what holds the whole
  -- model (shared/holds.py), for how many ms each
  -- of them has run...}; no ages where more than `few` run, of whom only the first RUNNING_LOOKED are looked at anyway.
  local function line_now(model, now, few)
    local running = NAMES.running .. model
    local sums, count = redis.call('HMGET', NAMES.room .. model, 'busy_ends', 'busy_ms', 'held'), redis.call('ZCARD', running)
    local ends, busy_ms = tonumber(sums[1] or 0), tonumber(sums[2] or 0)
    local line = {ends > 0 and math.floor(busy_ms * 1000 / ends + 0.5) or 0, count, sums[3] or ''}
    if count > few then return line end
    for _, id in ipairs(redis.call('ZRANGE', running, 0, RUNNING_LOOKED - 1)) do
      line[#line + 1] = math.max(0, now - tonumber(redis.call('HGET', NAMES.job .. id, 'taken') or now))
    end
    return line
  end

  return {weights_of = weights_of, lanes_now = lanes_now, jobs_before = jobs_before, line_now = line_now}
end
