-- What a worker asks that finds no backend of a model: holds the model, and says who calls the wake hook.
--
-- Returns milliseconds: 0: the caller calls the hook now; n: not before then; -1: nothing holds the model any more, as another
-- worker has found a backend.
if has_met then set_hold(model, 'starting')  -- before all else, so that nothing more is taken
elseif not has_word(redis.call('HGET', NAMES.room .. model, 'held') or '', 'starting') then return -1 end
-- What is being put to sleep is woken after that, or its start would be overtaken by its stop.
local dozing = redis.call('PTTL', NAMES.dozing .. model)
if dozing > 0 then
  local longest_ms = tonumber(redis.call('GET', NAMES.dozing .. model))
  if dozing > longest_ms then redis.call('PEXPIRE', NAMES.dozing .. model, longest_ms) end  -- the clock was set back
  return math.min(dozing, LOOK_AGAIN_MS)
end
if cooldown_ms == 0 then return KEEP_MS end
if redis.call('SET', NAMES.woken .. model, '1', 'NX', 'PX', cooldown_ms) then return 0 end
local left = redis.call('PTTL', NAMES.woken .. model)
if left > cooldown_ms then  -- of before a reload, or before the clock was set back
  redis.call('PEXPIRE', NAMES.woken .. model, cooldown_ms)
  left = cooldown_ms
end
return math.max(1, left)
