-- What operators see of jobs, never a prompt: for each {id, tenant, group, model, lane, state, tries, admitted, taken, begun, ended,
-- cost, bytes, sink, kind, held, mark}, times in ms and 0 where there was none yet; {id} where there is no such job. `held` is
-- what holds the whole model of one that waits (shared/holds.py), `mark` the nonce of its attempt.
local out, rooms = {}, {}
local function held_of(model)
  if rooms[model] == nil then rooms[model] = redis.call('HGET', NAMES.room .. model, 'held') or '' end
  return rooms[model]
end
for id in rows() do
  local job = load_job(id)
  local row = {id}
  if job then
    local known = redis.call('HMGET', NAMES.job .. id, 'begun', 'spec')
    local ended = job.state == 'ended' and ended_at(id, job) or 0
    row = {id, job.tenant, job.group or '', job.model, job.lane, job.cancelled and job.state == 'running' and 'cancelled' or job.state,
      job.tries, job.admitted, job.state ~= 'waiting' and job.taken or 0, tonumber(known[1] or 0), ended, math.floor(job.cost),
      job.bytes, job.sink, string.match(known[2] or '', '"kind":"([^"]*)"') or '', job.state == 'waiting' and held_of(job.model) or '',
      nonce_of(job.attempt)}
  end
  out[#out + 1] = row
end
return out
