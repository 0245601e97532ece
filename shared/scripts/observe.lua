-- What metrics read beside `depth`: the states that live processes have told; and for each model how many may run by what was
-- found of it, what was found of each backend (of `concurrency: auto`; else empty), and by lane how far tenants are apart.

-- Among those that wait: from who has had least by weight to who has had most. Of a tenant the first job has its place, and
-- of a group only one job has a place at all. Who has none among the first hundred is further ahead still.
local function deviation(lane, model)
  local known, others, least, most = {}, 0
  local ids = redis.call('ZRANGE', lane_key(lane, model), 0, 99, 'WITHSCORES')
  for i = 1, #ids, 2 do
    local job, place = load_job(ids[i]), tonumber(ids[i + 1])
    if job and not known[job.tenant] and place < math.huge then
      known[job.tenant], others = true, others + 1
      least = math.min(least or place, place)
      most = math.max(most or place, place)
    end
  end
  return others > 1 and math.floor(most - least + 0.5) or 0
end

local states = {}
for _, process in ipairs(redis.call('ZRANGE', NAMES.tellers, 0, -1)) do
  local told = redis.call('GET', NAMES.states .. process)  -- none: it is gone
  if told then states[#states + 1] = told end
end
local out = {states}
for model in rows() do
  local found = redis.call('HMGET', NAMES.capacity .. model, 'places', 'state')
  local row = {found[1] or '', found[2] or ''}
  -- Of one tenant alone nobody is ahead. Lines of batches are not counted there, so that their lane is always looked at.
  local several = redis.call('HLEN', NAMES.tenants .. model) > 1
  for j, lane in ipairs({'priority', 'default', 'flex', 'batch'}) do
    row[2 + j] = (several or lane == 'batch') and deviation(lane, model) or 0
  end
  out[#out + 1] = row
end
return out
