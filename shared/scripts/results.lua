-- What a batch's sink holds from place `start` on, oldest first, in one bounded call: for each {id, event...}. Nothing is
-- removed. An id without events is of a record that went before it was read.
local out = {}
for _, id in ipairs(redis.call('LRANGE', NAMES.results .. batch, start, start + most - 1)) do
  local events = redis.call('LRANGE', NAMES.log .. id, 0, -1)
  for _, event in ipairs(events) do budget_bytes = budget_bytes - #event end
  if budget_bytes < 0 and #out > 0 then break end
  out[#out + 1] = {id, unpack(events)}
end
return out
