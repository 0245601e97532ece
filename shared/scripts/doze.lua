-- Puts a model to sleep that nobody has used for so long: from here on nothing is taken, and whoever comes has it woken.
--
-- Returns milliseconds: 0: the caller calls the sleep hook now; n: look again after so long.
local now, room = clock(), NAMES.room .. model
local known = redis.call('HMGET', room, 'held', 'ended_at')
if known[1] or redis.call('EXISTS', NAMES.waits .. model) == 1 or redis.call('ZCARD', NAMES.running .. model) > 0 then return idle_ms end
local left = math.min(idle_ms, (tonumber(known[2]) or 0) + idle_ms - now)
if left > 0 then return left end
if not redis.call('SET', NAMES.slept .. model, '1', 'NX', 'PX', cooldown_ms) then
  local slept = redis.call('PTTL', NAMES.slept .. model)
  if slept > cooldown_ms then  -- of before a reload, or before the clock was set back
    redis.call('PEXPIRE', NAMES.slept .. model, cooldown_ms)
    slept = cooldown_ms
  end
  return math.max(1, slept)
end
redis.call('SET', NAMES.dozing .. model, longest_ms, 'PX', longest_ms)
redis.call('DEL', NAMES.woken .. model)
set_hold(model, 'starting')
return 0
