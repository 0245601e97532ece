-- Stores events of many jobs, publishes what it accepted, grouped by owner; ends the jobs whose last event this is.
-- ARGV: keep_ms, then for each job: id, attempt, number of the first event, cost ('' unless this ends the job),
--       count, payload...
-- Returns one letter a job: 'o' stored (or an exact repeat), 'w' stored as the job's end, and others of its model wait,
--       'g' gap, 's' stale attempt, 'c' cancelled, 'u' unknown job
local keep_ms = tonumber(ARGV[1])
local now = clock()
local out, i, ends = {}, 2, {}
while i <= #ARGV do
  local id, attempt, number, cost, count = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3], tonumber(ARGV[i + 4])
  local first = i + 5
  i = first + count
  local key, log = NAMES.job .. id, NAMES.log .. id
  local job = redis.call('HMGET', key, 'attempt', 'owner', 'cancelled', 'state')
  local verdict = 'o'
  if not job[1] then verdict = 'u'
  elseif job[1] ~= attempt then verdict = 's'
  elseif job[4] == 'ended' then verdict = cost ~= '' and 'o' or 's'  -- 'o': the repeat of an end that was stored
  elseif job[3] ~= '' then verdict = 'c'
  else
    local length = redis.call('LLEN', log)
    if number > length then verdict = 'g'
    else
      local ended = nil
      if cost ~= '' then
        -- Memory is freed before anything is written, so that a job can end at maxmemory.
        ended = load_job(id)
        finish(id, ended, now, keep_ms)
        ends[ended.model] = (ends[ended.model] or 0) + 1
        if redis.call('EXISTS', NAMES.waits .. ended.model) == 1 then verdict = 'w' end
        local tags = tags_key(ended.lane, ended.model)
        if redis.call('HEXISTS', tags, ended.tenant) == 1 then
          redis.call('HINCRBYFLOAT', tags, ended.tenant, (tonumber(cost) - tonumber(ended.cost)) / tonumber(ended.weight))
        end
      end
      for j = length - number, count - 1 do  -- a repeat that overlaps adds only what is new
        local payload = ARGV[first + j]
        redis.call('RPUSH', log, payload)
        if job[2] ~= '' then frame(job[2], id, number + j, payload) end
      end
      if ended then redis.call('PEXPIRE', log, keep_ms)
      elseif length == 0 and count > 0 then redis.call('PEXPIRE', log, math.max(60000, redis.call('PTTL', key))) end
    end
  end
  out[#out + 1] = verdict
end
for model, number in pairs(ends) do count_ends(model, now, number) end
publish_frames()
return table.concat(out)
