-- What readers have missed, for many jobs in one bounded call.
-- ARGV: budget in bytes, then for each job: id, number of the next event
-- Returns for each job {state, payload...}: state 'u' unknown, else the record's; the budget ends the call early
local budget = tonumber(ARGV[1])
local out = {}
for i = 2, #ARGV, 2 do
  local id, number = ARGV[i], tonumber(ARGV[i + 1])
  local state = redis.call('HGET', NAMES.job .. id, 'state')
  local part = {state or 'u'}
  local length = redis.call('LLEN', NAMES.log .. id)
  while number < length and budget > 0 do
    local payloads = redis.call('LRANGE', NAMES.log .. id, number, number + 15)
    for _, payload in ipairs(payloads) do
      part[#part + 1] = payload
      budget = budget - #payload
    end
    number = number + #payloads
  end
  out[#out + 1] = part
  if budget <= 0 then break end
end
return out
