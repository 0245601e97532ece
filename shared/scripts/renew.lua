-- Renews a worker process's leases and its place among the live workers; one call a process.
-- ARGV: worker, lease_ms, number of models, model..., then for each job: id, attempt
-- Returns {models with waiting jobs as one string of 0s and 1s, id, reason, ...}; the reasons to give a job up: 'c'
-- cancelled, 'o' owner gone, 's' stale, 'u' unknown
local worker, lease, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = clock()
write_at_maxmemory()
for i = 4, 3 + count do
  local key = NAMES.workers .. ARGV[i]
  redis.call('ZADD', key, now, worker)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - 60000)
  redis.call('PEXPIRE', key, 60000)
end
local judged = owners_are_judged(now)
local waits = {}
for i = 4, 3 + count do waits[#waits + 1] = redis.call('EXISTS', NAMES.waits .. ARGV[i]) end
local out, owners = {table.concat(waits)}, {}
for i = 4 + count, #ARGV, 2 do
  local id, attempt = ARGV[i], ARGV[i + 1]
  local job = redis.call('HMGET', NAMES.job .. id, 'attempt', 'cancelled', 'owner', 'keep', 'model', 'state')
  local reason = nil
  if not job[1] then reason = 'u'
  elseif job[1] ~= attempt or job[6] ~= 'running' then reason = 's'
  elseif job[2] ~= '' then reason = 'c'
  elseif judged and job[3] ~= '' and job[4] ~= '1' then
    if owners[job[3]] == nil then owners[job[3]] = redis.call('EXISTS', NAMES.owner .. job[3]) end
    if owners[job[3]] == 0 then reason = 'o' end
  end
  if reason then out[#out + 1] = id; out[#out + 1] = reason end
  if reason == nil or reason == 'c' or reason == 'o' then
    redis.call('ZADD', NAMES.running .. job[5], now + lease, id)
  end
end
return out
