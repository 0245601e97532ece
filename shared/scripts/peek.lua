-- What readers have missed, for many jobs in one bounded call: for each {state, nonce of the attempt, length of the log,
-- payload...}; state '' is an unknown job's. The budget ends the call early.
local out = {}
for id, number in rows() do
  local known = redis.call('HMGET', NAMES.job .. id, 'state', 'attempt')
  local length = redis.call('LLEN', NAMES.log .. id)
  local part = {known[1] or '', nonce_of(known[2] or ''), length}
  while number < length and budget_bytes > 0 do
    local payloads = redis.call('LRANGE', NAMES.log .. id, number, number + 15)
    for _, payload in ipairs(payloads) do
      part[#part + 1] = payload
      budget_bytes = budget_bytes - #payload
    end
    number = number + #payloads
  end
  out[#out + 1] = part
  if budget_bytes <= 0 then break end
end
return out
