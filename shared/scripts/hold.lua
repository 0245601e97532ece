-- Takes or renews the lease of a batch's feeder; one feeder holds it. Returns 1 where it is the asker's.
local key = NAMES.feeder .. batch
local holder = stands(key, lease_ms) and redis.call('GET', key)
if holder and holder ~= feeder then return 0 end
redis.call('SET', key, feeder, 'PX', lease_ms)
return 1
