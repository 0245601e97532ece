-- Writes the sum of a day's hours, which are over; done again it writes the same. Returns how many fields there are.
local sums, count = {}, 0
for hour = day * 24, day * 24 + 23 do
  local flat = redis.call('HGETALL', NAMES.usage .. hour)
  for i = 1, #flat, 2 do
    local counts = {pcall(cmsgpack.unpack, flat[i + 1])}
    if table.remove(counts, 1) then
      local known = sums[flat[i]]
      if not known then sums[flat[i]], count = counts, count + 1
      else for j = 1, #counts do known[j] = (known[j] or 0) + counts[j] end end
    end
  end
end
for field, counts in pairs(sums) do redis.call('HSET', NAMES.usage_day .. day, field, cmsgpack.pack(unpack(counts))) end
if count > 0 then redis.call('PEXPIRE', NAMES.usage_day .. day, USAGE_DAYS_MS) end
return count
