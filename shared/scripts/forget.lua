-- Drops the records and logs of ended jobs whose only owner has handed the end on: nobody will read them again.
-- Returns how many were dropped.
local dropped = 0
for id in rows() do
  local known = redis.call('HMGET', NAMES.job .. id, 'state', 'owners')
  if known[1] == 'ended' and known[2] == owner then
    redis.call('DEL', NAMES.job .. id, NAMES.log .. id)
    dropped = dropped + 1
  end
end
return dropped
