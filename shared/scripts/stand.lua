-- Where an API process's waiting jobs of one model stand, asked for all of them together. O(log n) a job, however many wait,
-- and a look at no more than RUNNING_LOOKED running jobs.
--
-- Returns {now, mean ms that a job holds its slot (0: not known yet), running jobs, how long each of those looked at has run
-- in ms..., -1, jobs before each asked one (-1: it does not wait)...}.
local now = clock()
local sums = redis.call('HMGET', NAMES.room .. model, 'ends', 'busy_ms')
local ends, busy_ms = tonumber(sums[1] or 0), tonumber(sums[2] or 0)
local out = {now, ends > 0 and math.floor(busy_ms * 1000 / ends + 0.5) or 0, redis.call('ZCARD', NAMES.running .. model)}
for _, id in ipairs(redis.call('ZRANGE', NAMES.running .. model, 0, RUNNING_LOOKED - 1)) do
  local taken = tonumber(redis.call('HGET', NAMES.job .. id, 'taken') or now)
  out[#out + 1] = math.max(0, now - taken)
end
out[#out + 1] = -1
local lanes, weights = lanes_now(model, concurrency, batch_reserve), weights_of(weights_text)
for id, lane in rows() do out[#out + 1] = jobs_before(id, model, lane, lanes, weights) end
return out
