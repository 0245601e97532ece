-- Ends jobs because an operator wants it: whoever waits for them is told `wire`.
--
--   state     who moves it      to
--   waiting   end_jobs          ended                                           here
--   running   end_jobs          running, cancelled: its worker is told, and gives it up: then it ends        here
--
-- Returns one letter a job: 'w' was waiting, 'r' was running, 'e' had ended, 'n' there is none. With `quiet` nothing is
-- written down where none was ended.
local now = clock()
write_at_maxmemory()
local out, tell, count = {}, {}, {w = 0, r = 0, e = 0, n = 0}
for id in rows() do
  local job = load_job(id)
  local letter = 'n'
  if job and (job.state == 'ended' or job.cancelled) then letter = 'e'
  elseif job and job.state == 'waiting' then
    leave_room(id, job)
    fail(id, job, wire, 'cancelled')
    letter = 'w'
  elseif job then
    -- Its slot is free when its worker has let go, or its lease has run out.
    redis.call('HSET', NAMES.job .. id, 'cancelled', '1', 'stopped', wire)
    tell[#tell + 1] = id
    letter = 'r'
  end
  out[#out + 1] = letter
  count[letter] = count[letter] + 1
end
if #tell > 0 then redis.call('PUBLISH', NAMES.control, BY_OPERATOR .. ' ' .. table.concat(tell, ' ')) end
publish_frames()
if not quiet or count.w + count.r > 0 then
  audit(now, by, via, 'job.cancel', target, string.format('%d waiting and %d running ended, %d had ended, %d unknown',
    count.w, count.r, count.e, count.n))
end
return table.concat(out)
