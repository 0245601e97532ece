-- Returns for each key of usage, an hour's or a day's, a list of its fields, each followed by the list of its counters.
local out = {}
for key in rows() do
  local flat, one = redis.call('HGETALL', key), {}
  for i = 1, #flat, 2 do
    local sums = {pcall(cmsgpack.unpack, flat[i + 1])}
    if table.remove(sums, 1) then one[#one + 1], one[#one + 2] = flat[i], sums end
  end
  out[#out + 1] = one
end
return out
