-- Waiting jobs of some models behind a place, for operators: of one lane in the order of their turns, of all (no `lane`) those
-- whose longest wait ends first. O(log n) and what is asked for, however many wait.
-- Returns {how many wait, id, score, ...}, by score and id, `most` at most.
local total, found = 0, {}

-- How many stand before the first one behind (score, after). Members of a score are in the order of their names.
local function before_first(key)
  if after == '' then return 0 end
  local low = redis.call('ZCOUNT', key, '-inf', '(' .. score)
  local high = low + redis.call('ZCOUNT', key, score, score)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if redis.call('ZRANGE', key, middle, middle)[1] <= after then low = middle + 1 else high = middle end
  end
  return low
end

for model in rows() do
  local key = lane == '' and NAMES.waits .. model or lane_key(lane, model)
  local size = redis.call('ZCARD', key)
  total = total + size
  if size > 0 then
    local first = before_first(key)
    local slice = redis.call('ZRANGE', key, first, first + most - 1, 'WITHSCORES')
    for i = 1, #slice, 2 do found[#found + 1] = {slice[i], slice[i + 1], tonumber(slice[i + 1])} end
  end
end
table.sort(found, function(a, b) return a[3] < b[3] or (a[3] == b[3] and a[1] < b[1]) end)
local out = {total}
for i = 1, math.min(most, #found) do
  out[#out + 1] = found[i][1]
  out[#out + 1] = found[i][2]
end
return out
