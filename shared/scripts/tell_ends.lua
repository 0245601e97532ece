-- Remembers how requests and runs ended: of each kind the last `most`, for `keep_ms`. What is told again, as the answer was
-- lost, stands there once. Each row in the hash begins with when it ended. Returns how many were told.
local now = clock()
local kinds, count = {}, 0
for kind, name, ago_ms, told in rows() do
  local at = string.format('%.0f', now - ago_ms)
  redis.call('ZADD', NAMES.ended .. kind, at, name)
  redis.call('HSET', NAMES.ended_told .. kind, name, at .. ' ' .. told)
  kinds[kind], count = true, count + 1
end
-- At most so many go in one call, and the others with the next ones.
local function drop(kind, names)
  if #names == 0 then return end
  redis.call('ZREM', NAMES.ended .. kind, unpack(names))
  redis.call('HDEL', NAMES.ended_told .. kind, unpack(names))
end
for kind in pairs(kinds) do
  local order = NAMES.ended .. kind
  drop(kind, redis.call('ZRANGEBYSCORE', order, '-inf', now - keep_ms, 'LIMIT', 0, 1000))
  drop(kind, redis.call('ZRANGEBYSCORE', order, now + 60000, '+inf', 'LIMIT', 0, 1000))  -- the clock was set back
  local over = redis.call('ZCARD', order) - most
  if over > 0 then drop(kind, redis.call('ZRANGE', order, 0, math.min(over, 1000) - 1)) end
  redis.call('PEXPIRE', order, keep_ms)
  redis.call('PEXPIRE', NAMES.ended_told .. kind, keep_ms)
end
return count
