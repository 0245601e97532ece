-- Moves waiting jobs to another lane, where each stands behind those that wait there, as if it came now; its longest wait
-- stays as it is.
--
--   state     who moves it      to
--   waiting   move_jobs         waiting, in another lane                        here
--
-- Returns one letter a job: 'm' moved, 's' it was in that lane, 'r' runs already, 'e' has ended, 'n' there is none.
local now = clock()
local out, count = {}, {m = 0, s = 0, r = 0, e = 0, n = 0}
for id in rows() do
  local job = load_job(id, true)
  local letter = 'n'
  if job and job.state ~= 'waiting' then letter = job.state == 'ended' and 'e' or 'r'
  elseif job and job.lane == lane then letter = 's'
  elseif job then
    leave_room(id, job)
    local facts = cjson.decode(redis.call('HGET', NAMES.job .. id, 'facts'))
    local was = '"lane":"' .. job.lane .. '"'
    local from, to = string.find(job.spec, was, 1, true)
    if from then job.spec = string.sub(job.spec, 1, from - 1) .. '"lane":"' .. lane .. '"' .. string.sub(job.spec, to + 1) end
    facts.lane, job.lane = lane, lane
    local tag = enter_lane(id, job)
    count_waiting(job, 1)
    redis.call('HSET', NAMES.job .. id, 'facts', cjson.encode(facts), 'spec', job.spec, 'tag', tag)
    redis.call('ZADD', NAMES.waits .. job.model, job.deadline or now, id)
    letter = 'm'
  end
  out[#out + 1] = letter
  count[letter] = count[letter] + 1
end
audit(now, by, via, 'job.move', target .. ' to ' .. lane, string.format(
  '%d moved, %d were there, %d run, %d had ended, %d unknown', count.m, count.s, count.r, count.e, count.n))
return table.concat(out)
