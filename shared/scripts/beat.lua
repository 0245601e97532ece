-- An API process's heartbeat, or its farewell. Returns the time.
write_at_maxmemory()
local now = clock()
if gone then
  redis.call('DEL', NAMES.owner .. owner)
  redis.call('ZREM', NAMES.processes, process)
else
  redis.call('SET', NAMES.owner .. owner, '1', 'PX', life_ms)
  redis.call('SADD', NAMES.owners, owner)
  redis.call('PEXPIRE', NAMES.owned .. owner, DAY_MS)
  redis.call('ZADD', NAMES.processes, now, process)
end
return now
