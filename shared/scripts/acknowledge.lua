-- Drops ended lines of a batch whose results are kept elsewhere, from its sink and for good. Returns how many.
local dropped = 0
for id in rows() do
  redis.call('LREM', NAMES.results .. batch, 1, id)
  if redis.call('HGET', NAMES.job .. id, 'state') == 'ended' then
    redis.call('DEL', NAMES.job .. id, NAMES.log .. id)
    dropped = dropped + 1
  end
end
return dropped
