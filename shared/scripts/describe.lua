-- What operators see of jobs, never a prompt: for each {id, tenant, group, model, lane, state, tries, admitted, taken, begun, ended,
-- cost, bytes, sink, kind}, times in ms and 0 where there was none yet; {id} where there is no such job.
local now = clock()
local out = {}
for id in rows() do
  local job = load_job(id, true)
  local row = {id}
  if job then
    local begun = redis.call('HGET', NAMES.job .. id, 'begun')
    local ended = 0
    if job.state == 'ended' then
      local left, keep = redis.call('PTTL', NAMES.job .. id), keep_of(job)
      if job.sink == STORED then keep = left > KEEP_MS and DAY_MS or KEEP_MS end
      ended = math.max(job.admitted, now - (keep - left))
    end
    row = {id, job.tenant, job.group or '', job.model, job.lane, job.cancelled and job.state == 'running' and 'cancelled' or job.state,
      job.tries, job.admitted, job.state ~= 'waiting' and job.taken or 0, tonumber(begun or 0), ended, math.floor(job.cost),
      job.bytes, job.sink, string.match(job.spec or '', '"kind":"([^"]*)"') or ''}
  end
  out[#out + 1] = row
end
return out
