-- What workers measure of a model of `concurrency: auto`, and the numbers by which all run. One of them decides: whoever asks
-- first, for as long as it comes again within the lease.
--
-- Returns {1 for who decides, else 0; what was found, as the one who decides has said; and to that one the reports of all}.
local now = clock()
local key, measures = NAMES.capacity .. model, NAMES.measures .. model
local v = redis.call('HMGET', key, 'decider', 'until', 'state')
local ends = tonumber(v[2] or 0)
local is_mine = v[1] == worker
local decides = is_mine or ends <= now or ends > now + lease_ms
if decides then
  redis.call('HSET', key, 'decider', worker, 'until', now + lease_ms)
  if is_mine and state ~= '' then
    redis.call('HSET', key, 'state', state, 'places', places)
    v[3] = state
  end
  redis.call('PEXPIRE', key, DAY_MS)
end
if report ~= '' then
  redis.call('RPUSH', measures, report)
  redis.call('LTRIM', measures, -1000, -1)
  redis.call('PEXPIRE', measures, 10000)
end
if not decides then return {0, v[3] or ''} end
local reports = redis.call('LRANGE', measures, 0, -1)
redis.call('DEL', measures)
return {1, v[3] or '', unpack(reports)}
