"""The clock that scripts meet inside of the probe: how far it goes on at each command in, Lua to put in front out.

From Redis 7.2 on the clock stands still while a script runs, and so does the one by which lifetimes are counted. Before
that both go on, by more where the machine is busy, and nothing could be foretold to the millisecond. So on such servers
scripts ask a clock of ours, which stands at the moment when the step began; and on any server a test may have it go on,
faster than a real one.
"""

from __future__ import annotations

from typing import Final

_STANDS_SINCE: Final = (7, 2)

_REDIS: Final = """
local function moment()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function ttl_clock()
  redis.call('SET', 'probe', '', 'PX', 1000)
  local at = redis.call('PEXPIRETIME', 'probe') - 1000
  redis.call('DEL', 'probe')
  return at
end
-- At its very last millisecond a key may be there still, or be gone: here it is gone.
for _, key in ipairs(redis.call('KEYS', '*')) do
  if redis.call('PTTL', key) == 0 then redis.call('DEL', key) end
end
"""
"""Its own. Each of the two has `moment()`, and `ttl_clock()` for what a step has left behind."""

_OURS: Final = """
local plain = redis
local function plain_ms()
  local t = plain.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function whole(number) return string.format('%.0f', number) end

-- When each key's lifetime ends. Of one that ended while this script runs Redis says no more than that nothing is left.
local ends = {}
local function end_of(key)
  while true do
    local before, left, after = plain_ms(), plain.call('PTTL', key), plain_ms()
    if left < 0 then return nil, left end
    if left == 0 and ends[key] then return ends[key] end
    if before == after then
      ends[key] = before + left
      return ends[key]
    end
  end
end
for _, key in ipairs(plain.call('KEYS', '*')) do end_of(key) end
local at = plain_ms()
for key, until_ms in pairs(ends) do if until_ms <= at then plain.call('DEL', key) end end
local step = 0
local function moment() return at end
-- From here on it stands still again.
local function ttl_clock()
  step = 0
  return at
end

-- Commands that bring a time are said with the moment in its place. A number that Redis would refuse is left to it.
local function with_moment(how, command, key, ...)
  local words = {...}
  local place = command == 'PEXPIRE' and 1 or nil
  for i = 2, #words do if command == 'SET' and words[i] == 'PX' then place = i + 1 end end
  local life = tonumber(place and words[place])
  if not life or life < 1 or life ~= math.floor(life) then return how(command, key, ...) end
  words[place] = whole(at + life)
  if command == 'SET' then words[place - 1] = 'PXAT' else command = 'PEXPIREAT' end
  local reply = how(command, key, unpack(words))
  if reply then ends[key] = at + life end
  return reply
end
local function by_our_clock(how)
  return function(command, ...)
    at = at + step
    if command == 'TIME' then
      step = STEP_MS
      return {whole(math.floor(at / 1000)), whole(at % 1000 * 1000)}
    end
    if command == 'PTTL' then
      local until_ms, left = end_of(...)
      return until_ms and math.max(0, until_ms - at) or left
    end
    if command == 'PEXPIRE' or command == 'SET' then return with_moment(how, command, ...) end
    return how(command, ...)
  end
end
local redis = setmetatable({call = by_our_clock(redis.call), pcall = by_our_clock(redis.pcall)}, {__index = redis})
"""


def clock_of(version: str, moves_ms: int | None) -> str:
    """Return what a server of this version needs in front of a script, so that its clock does as a test wants."""
    major, minor, *_ = (int(part) for part in version.split("."))
    if moves_ms is None and (major, minor) >= _STANDS_SINCE:
        return _REDIS
    return _OURS.replace("STEP_MS", str(moves_ms or 0))
