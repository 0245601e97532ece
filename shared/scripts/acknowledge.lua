-- Drops ended jobs whose results are kept elsewhere from their sink: for good, or after `keep_ms` where readers may still be
-- at them. Returns how many.
local dropped = 0
for id in rows() do
  redis.call('LREM', NAMES.results .. batch, 1, id)
  if redis.call('HGET', NAMES.job .. id, 'state') == 'ended' then
    if keep_ms > 0 then
      redis.call('HDEL', NAMES.job .. id, 'body')
      redis.call('PEXPIRE', NAMES.job .. id, keep_ms)
      redis.call('PEXPIRE', NAMES.log .. id, keep_ms)
      redis.call('UNLINK', NAMES.body .. id)
    else redis.call('DEL', NAMES.job .. id, NAMES.log .. id) end
    dropped = dropped + 1
  end
end
return dropped
