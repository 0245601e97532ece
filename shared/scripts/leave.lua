-- A worker leaves its models at once instead of by silence; when it left is kept, so that a model whose only worker is
-- started again holds its jobs as long as after a silence.
write_at_maxmemory()
local now = clock()
redis.call('ZREM', NAMES.processes, process)
for model in rows() do
  redis.call('DEL', NAMES.awake .. model)
  if redis.call('ZREM', NAMES.workers .. model, worker) == 1 then
    redis.call('HSET', NAMES.room .. model, 'left_at', now)
    redis.call('PEXPIRE', NAMES.room .. model, DAY_MS)
  end
end
return 1
