-- What holds a whole model: words in the field `held` of its room, separated by blanks (shared/holds.py). While it stands
-- nothing of the model is taken, and its room has no lifetime.

local function has_word(text, word) return string.find(' ' .. text .. ' ', ' ' .. word .. ' ', 1, true) ~= nil end

-- Returns whether the word is new.
local function set_hold(model, word)
  local room = NAMES.room .. model
  local held = redis.call('HGET', room, 'held') or ''
  if has_word(held, word) then return false end
  redis.call('HSET', room, 'held', held == '' and word or held .. ' ' .. word)
  redis.call('PERSIST', room)
  return true
end

-- Returns whether the word stood there.
local function clear_hold(model, word)
  local room = NAMES.room .. model
  local held = redis.call('HGET', room, 'held') or ''
  if not has_word(held, word) then return false end
  local left = {}
  for one in string.gmatch(held, '%S+') do if one ~= word then left[#left + 1] = one end end
  if #left > 0 then redis.call('HSET', room, 'held', table.concat(left, ' '))
  else
    redis.call('HDEL', room, 'held')
    redis.call('PEXPIRE', room, DAY_MS)
  end
  return true
end

-- A model all of whose backends an operator holds is held.
local function hold_without_backends(model, off, configured)
  local all = configured ~= ''
  for one in string.gmatch(configured, '%S+') do all = all and has_word(off, one) end
  if all then set_hold(model, 'backend') else clear_hold(model, 'backend') end
end
