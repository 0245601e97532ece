-- Gives running jobs up without an event: cancelled ones end here, handed-back ones wait again where they stood.
-- ARGV: queue, ticket, then for each job: id, attempt, 'end' or 'back'
-- Returns one letter a job: 'e' ended, 'b' back in the room, 's' stale, 'u' unknown, 'p' published (it cannot go back)
local queue, ticket = ARGV[1], ARGV[2]
local now = clock()
local out = {}
for i = 3, #ARGV, 3 do
  local id, attempt, how = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local job = load_job(id)
  if not job then out[#out + 1] = 'u'
  elseif job.attempt ~= attempt or job.state ~= 'running' then out[#out + 1] = 's'
  elseif how == 'end' or job.cancelled ~= '' then
    finish(id, job, now, 0)
    count_ends(job.model, now, 1)
    out[#out + 1] = 'e'
  elseif redis.call('LLEN', NAMES.log .. id) > 0 then out[#out + 1] = 'p'
  else
    leave_running(id, job)
    redis.call('HSET', NAMES.job .. id, 'state', 'waiting', 'attempt', '', 'tries', math.max(0, job.tries - 1))
    enter_lane(id, job, job.tag)
    count_waiting(job, 1)
    set_deadline(id, job, now, now + 60000)
    out[#out + 1] = 'b'
  end
  if job and redis.call('EXISTS', NAMES.waits .. job.model) == 1 then
    push_ticket(queue, ticket, id, live_workers(job.model, now, 6000))
  end
end
return table.concat(out)
