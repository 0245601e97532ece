-- What is known of one request, for its owner: {tenant, model, lane, state, tries, admitted, taken, begun, ended, now}, times in
-- ms and 0 where there was none yet; {} where there is no such record.
local now = clock()
local job = load_job(id)
if not job then return {} end
local known = redis.call('HMGET', NAMES.job .. id, 'begun')
local ended = job.state == 'ended' and ended_at(id, job) or 0
return {job.tenant, job.model, job.lane, job.state, job.tries, job.admitted, job.state ~= 'waiting' and job.taken or 0, tonumber(known[1] or 0), ended, now}
