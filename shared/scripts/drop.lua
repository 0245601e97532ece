-- Forgets jobs whose answers would be stored, wherever they stand; `tenant` is whose they must be, or empty for anybody's.
--
--   state     who moves it      to
--   waiting   drop              (none)                                      here
--   running   drop              running, cancelled: its worker is told      here
--   ended     drop              (none)                                      here
--
-- Returns one letter a job: 'w' was waiting, 'r' is running, 'e' had ended, 'n' there is none.
local out, tell = {}, {}
for id, tenant in rows() do
  local job = load_job(id)
  local letter = 'n'
  if job and job.sink == STORED and (tenant == '' or job.tenant == tenant) then
    if job.state == 'ended' then
      redis.call('LREM', NAMES.results .. STORED, 1, id)
      redis.call('DEL', NAMES.job .. id, NAMES.log .. id, NAMES.body .. id)
      letter = 'e'
    elseif job.state == 'waiting' then
      leave_room(id, job)
      finish(id, job)
      letter = 'w'
    else
      free(id, job)
      redis.call('HSET', NAMES.job .. id, 'cancelled', '1')
      tell[#tell + 1] = id
      letter = 'r'
    end
  end
  out[#out + 1] = letter
end
if #tell > 0 then redis.call('PUBLISH', NAMES.control, table.concat(tell, ' ')) end
return table.concat(out)
