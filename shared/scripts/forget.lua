-- Drops the logs of ended jobs whose only owner has handed the end on: nobody will read them again. The records of the first
-- `keep` of them stay for their last lifetime, so that the caller can ask what became of its request; the others' go too.
-- Returns how many were dropped.
local dropped = 0
for id in rows() do
  local known = redis.call('HMGET', NAMES.job .. id, 'state', 'owners')
  if known[1] == 'ended' and known[2] == owner then
    if keep > 0 then
      keep = keep - 1
      redis.call('DEL', NAMES.log .. id)
    else
      redis.call('DEL', NAMES.job .. id, NAMES.log .. id)
    end
    dropped = dropped + 1
  end
end
return dropped
