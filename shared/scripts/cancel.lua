-- Takes an owner out of jobs; with the last one a job is cancelled, unless it must finish. Batch lines have none, and are
-- cancelled by the empty name.
--
--   state     who moves it      to
--   waiting   cancel            (none)                                      here
--   running   cancel            running, cancelled: its worker is told      here
--
-- Returns one letter a job: 'w' was waiting, 'r' is running, 'o' it goes on, as others listen or it must finish, 'n' nothing
-- to cancel.
local out, tell = {}, {}
for id in rows() do
  local job = load_job(id)
  local letter = 'n'
  if not job then
    redis.call('UNLINK', NAMES.body .. id)  -- of an admission that never came
  elseif job.state ~= 'ended' and has_owner(job.owners, owner) then
    local left = without_owner(job.owners, owner)
    if owner ~= '' then redis.call('SREM', NAMES.owned .. owner, id) end
    if left ~= '' or (job.must_finish and owner ~= '') then
      redis.call('HSET', NAMES.job .. id, 'owners', left)
      letter = 'o'
    elseif job.state == 'waiting' then
      leave_room(id, job)
      finish(id, job)
      letter = 'w'
    else
      free(id, job)  -- first: it works at maxmemory, and nobody will run this again
      redis.call('HSET', NAMES.job .. id, 'cancelled', '1')
      if owner ~= '' then redis.call('SADD', NAMES.owned .. owner, id) end
      tell[#tell + 1] = id
      letter = 'r'
    end
  end
  out[#out + 1] = letter
end
if #tell > 0 then redis.call('PUBLISH', NAMES.control, table.concat(tell, ' ')) end
return table.concat(out)
