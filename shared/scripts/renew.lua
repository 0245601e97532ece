-- Renews a worker process's leases and its place among the live workers; one call a process.
--
--   state     who moves it      to
--   running   renew             running, under a longer lease                     here
--
-- Returns {a digit for each model (1: jobs wait, 2: tickets lie on its queue, 3: both, 0: neither), id, attempt, reason, ...}; the reasons to give a job up:
-- 'c' cancelled, 'e' ended by an operator, 'o' every owner is gone, 's' stale, 'u' unknown. No models: the worker is leaving, and takes no more.
local now = clock()
write_at_maxmemory()
if models ~= '' then redis.call('ZADD', NAMES.processes, now, process) end
local names = {}
for model in string.gmatch(models, '[^\n]+') do names[#names + 1] = model end
for _, model in ipairs(names) do
  local key = NAMES.workers .. model
  redis.call('ZADD', key, now, worker)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - 60000)
  redis.call('PEXPIRE', key, 60000)
end
local judged = not stood_still(now)
local waits = {}
for _, model in ipairs(names) do
  local lying = redis.call('EXISTS', QUEUE_PREFIX .. model)
  waits[#waits + 1] = redis.call('EXISTS', NAMES.waits .. model) + 2 * lying
end
local out, alive = {table.concat(waits)}, {}
local function is_heard(job)
  if job.owners == '' or job.must_finish or not judged then return true end
  for owner in each_owner(job.owners) do
    if alive[owner] == nil then alive[owner] = redis.call('EXISTS', NAMES.owner .. owner) == 1 end
    if alive[owner] then return true end
  end
  return false
end
for id, attempt in rows() do
  local job = load_job(id)
  local reason = nil
  if not job then reason = 'u'
  elseif job.attempt ~= attempt or job.state ~= 'running' then reason = 's'
  elseif job.cancelled then reason = redis.call('HEXISTS', NAMES.job .. id, 'stopped') == 1 and 'e' or 'c'
  elseif not is_heard(job) then reason = 'o' end
  if reason then
    local at = #out
    out[at + 1], out[at + 2], out[at + 3] = id, attempt, reason
  end
  if reason == nil or reason == 'c' or reason == 'e' or reason == 'o' then
    redis.call('ZADD', NAMES.running .. job.model, now + lease_ms, id)
  end
end
return out
