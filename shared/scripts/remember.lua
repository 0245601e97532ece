-- Adds a point to the last hour of each model, and keeps what was counted up to it, for the next. One process at a time does
-- it: whoever holds the lease, or finds it free. Returns 1, or 0 where another holds it.
local holder = redis.call('GET', NAMES.historian)
if holder and holder ~= writer then return 0 end
redis.call('SET', NAMES.historian, writer, 'PX', lease_ms)
for model, point, sums in rows() do
  local key = NAMES.history .. model
  if point ~= '' then
    redis.call('RPUSH', key, point)
    redis.call('LTRIM', key, -HISTORY_POINTS, -1)
    redis.call('PEXPIRE', key, HISTORY_MS)
  end
  redis.call('SET', NAMES.history_base .. model, sums, 'PX', HISTORY_MS)
end
return 1
