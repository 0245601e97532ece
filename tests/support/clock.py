"""Redis's clock, set: every absolute time that is stored moves by as much the other way, which is the same.

Only what a process remembers of Redis's clock (the API's estimate, corrected by its next heartbeat) is not touched.
"""

from __future__ import annotations

import redis

_SHIFT = """
local delta, moved = tonumber(ARGV[1]), 0
local seconds = math.floor(delta / 1000)
local function shift_field(key, field)
  local value = tonumber(redis.call('HGET', key, field) or '')
  if value then redis.call('HSET', key, field, string.format('%.0f', value - delta)) end
end
local function shift_scores(key)
  local flat = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  for i = 1, #flat, 2 do redis.call('ZADD', key, 'XX', tonumber(flat[i + 1]) - delta, flat[i]) end
end
local function shift_string(key)
  local value, left = tonumber(redis.call('GET', key)), redis.call('PTTL', key)
  redis.call('SET', key, string.format('%.3f', value - delta))
  if left > 0 then redis.call('PEXPIRE', key, left) end
end
local times = {waits = true, running = true, workers = true, token_jobs = true, subject_waits = true, processes = true}
local function shift_job(key)
  shift_field(key, 'deadline')
  local facts = redis.call('HGET', key, 'facts')
  if facts then
    local known = cjson.decode(facts)
    known.admitted = known.admitted - delta
    for _, row in ipairs(known.limits or {}) do row[3] = row[3] - seconds end
    redis.call('HSET', key, 'facts', cjson.encode(known))
  end
end
local function shift_window(key)
  local flat = redis.call('HGETALL', key)
  redis.call('DEL', key)
  for i = 1, #flat, 2 do
    local name, value = flat[i], flat[i + 1]
    local kind, number = string.match(name, '^([rtp])(%d+)$')
    if kind == 'p' then name = string.format('p%.0f', number - seconds)
    elseif kind then name = kind .. (number - seconds) % 61 end
    redis.call('HSET', key, name, value)
  end
end
local function shift_minute(key)
  local at, r, t, promised, own_r, own_t = struct.unpack('>dddddd', redis.call('GET', key))
  redis.call('SETRANGE', key, 0, struct.pack('>dddddd', at - seconds, r, t, promised - seconds, own_r, own_t))
end
local function shift_promises(key)
  local function moved(due, tokens) return string.format('%.0f:', due - seconds) .. tokens end
  redis.call('SET', key, (string.gsub(redis.call('GET', key), '(%d+):(%d+)', moved)))
end
local function shift_ends(key)
  local old, slots = redis.call('HMGET', key, 'ends:0', 'ends:1', 'ends:2', 'ends:3'), math.floor(delta / 20000)
  redis.call('HDEL', key, 'ends:0', 'ends:1', 'ends:2', 'ends:3')
  for _, value in ipairs(old) do
    if value then
      local number = value - slots * 1000000
      redis.call('HSET', key, 'ends:' .. math.floor(number / 1000000) % 4, string.format('%.0f', number))
    end
  end
end
for _, key in ipairs(redis.call('KEYS', 'aq*')) do
  local kind = string.match(key, '^aq2?:([a-z_]+)')
  local left = redis.call('PTTL', key)
  if times[kind] then shift_scores(key)
  elseif kind == 'swept' then shift_string(key)
  elseif kind == 'seconds' then shift_window(key)
  elseif kind == 'minute' then shift_minute(key)
  elseif kind == 'promise' then shift_promises(key)
  elseif kind == 'job' then shift_job(key)
  elseif kind == 'room' then
    for _, field in ipairs({'left_at', 'ended_at', 'unserved'}) do shift_field(key, field) end
    shift_ends(key)
  end
  if left > 0 then redis.call('PEXPIRE', key, math.max(0, left - delta)) end
  moved = moved + 1
end
return moved
"""


def set_clock(client: redis.Redis, seconds: float) -> int:
    """Set the clock on (or back, below 0) by so much, in one step; returns how many keys there were."""
    return int(client.eval(_SHIFT, 0, round(seconds * 1000)))
