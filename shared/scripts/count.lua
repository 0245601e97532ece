-- Adds what a process has counted to what all have, a hash a model. A telling that was heard before, and whose answer was
-- lost, adds nothing. What was counted before Redis was restarted, or another took its place, may have lost its last moment:
-- it begins anew, as numbers that fall back by a little would be read as a start at nothing and counted twice.
-- A number that would grow past what Redis can hold (a backend may say that it used any number of tokens) stays where it is,
-- and keeps nothing else from being counted.
-- With them comes what stands in the process now, which replaces what stood, and is forgotten where no word follows.
-- Returns how many numbers were added.
if states == 'gone' then redis.call('DEL', NAMES.states .. process)
elseif states ~= '' then
  local now = clock()
  redis.call('SET', NAMES.states .. process, states, 'PX', states_ms)
  redis.call('ZADD', NAMES.tellers, now, process)
  redis.call('ZREMRANGEBYSCORE', NAMES.tellers, '-inf', now - states_ms)
  redis.call('PEXPIRE', NAMES.tellers, states_ms)
end
local told, added = NAMES.counted .. process, 0
if tonumber(redis.call('GET', told) or 0) >= number then return 0 end
redis.call('SET', told, number, 'PX', DAY_MS)
for model, first, count in rows() do
  local key = NAMES.metrics .. model
  if redis.call('HGET', key, 'run') ~= run then
    redis.call('DEL', key)
    redis.call('HSET', key, 'run', run)
  end
  for at = first, first + count - 1, 2 do
    if type(redis.pcall('HINCRBY', key, ARGV[at], ARGV[at + 1])) == 'number' then added = added + 1 end
  end
  redis.call('PEXPIRE', key, COUNTS_MS)
end
return added
