-- Cancels jobs for their owner: out of the room if waiting, told to the workers if running.
-- ARGV: owner, id...   Returns one letter a job: 'w' was waiting, 'r' is running, 'n' nothing to cancel (any more, or
--       another connection has joined the job and owns it now)
local owner = table.remove(ARGV, 1)
local now = clock()
local out, tell = {}, {}
for i, id in ipairs(ARGV) do
  local job = load_job(id)
  if not job or job.state == 'ended' or job.owner ~= owner then
    out[i] = 'n'
    if not job then redis.call('DEL', NAMES.body .. id) end
  elseif job.state == 'waiting' then
    leave_room(id, job, true)
    finish(id, job, now, 0)
    out[i] = 'w'
  else
    redis.call('DEL', NAMES.body .. id)  -- first: it works at maxmemory, and nobody will run this again
    redis.call('HSET', NAMES.job .. id, 'cancelled', '1')
    tell[#tell + 1] = id
    out[i] = 'r'
  end
end
if #tell > 0 then redis.call('PUBLISH', NAMES.control, table.concat(tell, ' ')) end
return table.concat(out)
