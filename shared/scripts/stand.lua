-- Where an API process's waiting jobs of one model stand, asked for all of them together. O(log n) a job, however many wait,
-- and a look at no more than RUNNING_LOOKED running jobs.
--
-- Returns {the line as `line_now` tells it, jobs before each asked one (-1: it does not wait)...}.
concurrency, batch_reserve = places_now(model, concurrency, batch_reserve)
local tell = line_teller()
local out = {tell.line_now(model, clock(), math.huge)}
local lanes, weights = tell.lanes_now(model, concurrency, batch_reserve), tell.weights_of(weights_text)
for id, lane in rows() do
  local before = tell.jobs_before(id, model, lane, lanes, weights)
  if before < 0 then  -- it runs, or was moved to another lane
    local job = load_job(id)
    if job and job.state == 'waiting' then before = tell.jobs_before(id, model, job.lane, lanes, weights) end
  end
  out[#out + 1] = before
end
return out
