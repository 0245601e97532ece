-- Makes an API process an owner of a job whose answer is stored, so that it hears the events, if the job is the asker's tenant's.
-- Returns {state, spec}, or {} where there is no such job.
local job = load_job(id, true)
if not job or job.sink ~= STORED or job.tenant ~= tenant or job.cancelled then return {} end
if job.state ~= 'ended' and not has_owner(job.owners, owner) then
  redis.call('SADD', NAMES.owned .. owner, id)
  redis.call('HSET', NAMES.job .. id, 'owners', job.owners == '' and owner or job.owners .. ' ' .. owner)
end
return {job.state, job.spec}
