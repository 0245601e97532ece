"""A step of a script in; its reply, the moment it ran and everything that Redis then holds out, in one atomic call.

Each script runs unaltered, as a function inside a longer one that notes what it publishes and lists all keys behind it.
The clock stands still within a script (`room_clock.py` sees to it), so a model can say to the millisecond what must
have happened. Time passes by moving everything that is stored: that is the same as a clock which moves the other way,
whichever way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple, cast

import redis

from shared import keys
from shared.redis import Reply
from shared.scripting import Script
from tests.shared.room_clock import clock_of

_HEAD: Final = """
local published, plain = {}, redis
local redis = setmetatable({call = function(command, ...)
  if command == 'PUBLISH' then
    published[#published + 1] = select(1, ...)
    published[#published + 1] = select(2, ...)
  end
  return plain.call(command, ...)
end}, {__index = plain})
"""
_TAIL: Final = (
    f"""
local USAGE, MINUTE, SPENT = '{keys.PREFIXES["usage"]}', '{keys.PREFIXES["minute"]}', '{keys.PREFIXES["spent"]}'
"""
    + """
local began = moment()
local reply = script()
local shown = {}
local ttl_now = ttl_clock()
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  local value
  if kind == 'string' then
    value = redis.call('GET', key)
    if string.find(key, MINUTE, 1, true) or string.find(key, SPENT, 1, true) then
      local numbers = {}
      for at = 1, #value, 8 do numbers[#numbers + 1] = string.format('%.0f', (struct.unpack('>d', value, at))) end
      value = table.concat(numbers, ' ')
    end
  elseif kind == 'hash' then
    value = redis.call('HGETALL', key)
    if string.find(key, USAGE, 1, true) then
      for i = 2, #value, 2 do value[i] = table.concat({cmsgpack.unpack(value[i])}, ' ') end
    end
  elseif kind == 'zset' then value = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
  elseif kind == 'set' then value = redis.call('SMEMBERS', key)
  else value = redis.call('LRANGE', key, 0, -1) end
  shown[#shown + 1] = {key, kind, redis.call('PTTL', key), value}
end
return {reply, began, ttl_now, cjson.encode(shown), published}
"""
)
_SHIFT: Final = """
local by, lifetimes, by_s = tonumber(ARGV[1]), ARGV[2] == '1', tonumber(ARGV[3])
local function moved_second(text) return string.format('%.0f', tonumber(text) - by_s) end
local function field(key, name)
  local value = tonumber(redis.call('HGET', key, name) or '')
  if value then redis.call('HSET', key, name, string.format('%.17g', value - by)) end
end
for _, key in ipairs(redis.call('KEYS', '*')) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'zset' and not string.find(key, LANE, 1, true) and not string.find(key, MEMBERS, 1, true) then
    local all = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for i = 1, #all, 2 do redis.call('ZADD', key, string.format('%.17g', all[i + 1] - by), all[i]) end
  elseif string.find(key, JOB, 1, true) then
    for _, name in ipairs({'deadline', 'taken', 'begun'}) do field(key, name) end
    local facts = redis.call('HGET', key, 'facts')
    if facts then
      local moved = function(at) return '"admitted":' .. string.format('%.17g', at - by) end
      facts = string.gsub(facts, '"admitted":(%-?%d+)', moved)
      facts = string.gsub(facts, '(%["[^"]+","[cwtb]+",)(%d+)%]', function(head, second)
        return head .. (second == '0' and second or moved_second(second)) .. ']'
      end)
      redis.call('HSET', key, 'facts', facts)
    end
  elseif string.find(key, TAGS, 1, true) then field(key, ':since')
  elseif string.find(key, ROOM, 1, true) then
    for _, name in ipairs({'ended_at', 'left_at', 'unserved'}) do field(key, name) end
  elseif string.find(key, SECONDS, 1, true) then
    local all, left = redis.call('HGETALL', key), redis.call('PTTL', key)
    redis.call('DEL', key)
    for i = 1, #all, 2 do
      local name, value = all[i], all[i + 1]
      local kind, number = string.match(name, '^([rtp])(%d+)$')
      if kind == 'p' then name = 'p' .. moved_second(number)
      elseif kind then name = kind .. (number - by_s) % 61 end
      redis.call('HSET', key, name, value)
    end
    redis.call('PEXPIRE', key, left)
  elseif string.find(key, MINUTE, 1, true) then
    local minute = redis.call('GET', key)
    local at, _, _, promised = struct.unpack('>dddd', minute)
    redis.call('SETRANGE', key, 0, struct.pack('>d', at - by_s))
    redis.call('SETRANGE', key, 24, struct.pack('>d', promised - by_s))
  elseif string.find(key, PROMISE, 1, true) then
    local function moved(due, tokens) return moved_second(due) .. ':' .. tokens end
    redis.call('SET', key, (string.gsub(redis.call('GET', key), '(%d+):(%d+)', moved)), 'KEEPTTL')
  elseif key == SWEPT then
    redis.call('SET', key, string.format('%.17g', redis.call('GET', key) - by), 'KEEPTTL')
  end
  local left = redis.call('PTTL', key)
  if lifetimes and left >= 0 then
    if left == 0 or left - by <= 0 then redis.call('DEL', key) else redis.call('PEXPIRE', key, left - by) end
  end
end
return ttl_clock()
"""


class Shown(NamedTuple):
    """One key of Redis."""

    kind: str
    left_ms: int
    """-1: no lifetime."""
    value: Any


@dataclass(frozen=True, slots=True)
class Seen:
    """What one step did."""

    reply: Reply
    now: int
    """As TIME tells it."""
    ttl_now: int
    """As lifetimes are counted from, when the step was over: it may differ by a millisecond."""
    keys: dict[str, Shown]
    published: list[tuple[bytes, bytes]]
    """Channel and message."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of Redis at a moment."""

    at: int
    values: list[tuple[bytes, int, bytes]]
    """Key, lifetime, value as DUMP gives it."""


class Probe:
    """Runs scripts on one Redis of the test's own."""

    def __init__(self, client: redis.Redis, *, moves_ms: int | None = None) -> None:
        """With `moves_ms` a clock of ours goes on by so much with each command of a script; without, it stands."""
        self._call = cast(Any, client.execute_command)
        self._clock = clock_of(str(client.info("server")["redis_version"]), moves_ms)

    def run(
        self, script: Script[Any, Any, Any], arguments: Any = (), rows: Sequence[Any] = (), standing: bytes = b""
    ) -> Seen:
        """Run a script as processes do; the reply is the plain one."""
        return self._seen(_wrapped(script), script.lay_out(arguments, rows, standing))

    def look(self) -> Seen:
        """Look without doing anything."""
        return self.say("PING")

    def say(self, *words: str | bytes | int | float) -> Seen:
        """Say one command to Redis itself, and look."""
        return self._seen(f"{_HEAD}local function script() return redis.call(unpack(ARGV)) end{_TAIL}", [*words])

    def command(self, *words: str | bytes | int | float) -> Reply:
        """Say something to Redis itself."""
        return self._call(*words)

    def members(self, key: str) -> list[str]:
        """Return a set's members in the order in which scripts meet them."""
        members: list[bytes] = self._run("return redis.call('SMEMBERS', ARGV[1])", [key])
        return [member.decode() for member in members]

    def pass_time(self, by_ms: int, *, seconds: int, lifetimes: bool = True) -> int:
        """Let so much time pass, or, where negative, set the clock back; returns Redis's own time.

        `seconds` is by how much windows of whole seconds move.
        """
        return int(self._run(_shift(), [by_ms, "1" if lifetimes else "", seconds]))

    def snapshot(self) -> Snapshot:
        """Remember everything."""
        source = (
            "local all = {} for _, key in ipairs(redis.call('KEYS', '*')) do "
            "local left = redis.call('PTTL', key) "
            "if left ~= 0 then all[#all + 1] = {key, left, redis.call('DUMP', key)} end end return {ttl_clock(), all}"
        )
        now, values = self._run(source, [])
        return Snapshot(now, [(key, left, value) for key, left, value in values])

    def restore(self, snapshot: Snapshot, moved_ms: int, *, seconds: int) -> None:
        """Go back to what was; `moved_ms` is by how much `pass_time` has moved the clock since."""
        self._call("FLUSHDB")
        for key, left, value in snapshot.values:
            until = 0 if left == -1 else max(1, snapshot.at + left - moved_ms)  # what is past is not restored
            self._call("RESTORE", key, until, value, "ABSTTL")
        self.pass_time(moved_ms, seconds=seconds, lifetimes=False)

    def _seen(self, source: str, flat: list[Any]) -> Seen:
        reply, now, ttl_now, shown, published = self._run(source, flat)
        return Seen(reply, now, ttl_now, _parsed(shown), list(zip(published[::2], published[1::2], strict=True)))

    def _run(self, source: str, flat: list[Any]) -> Any:
        source = self._clock + source
        sha1 = _sha1(source)
        try:
            return self._call("EVALSHA", sha1, 0, *flat)
        except redis.exceptions.NoScriptError:
            self._call("SCRIPT", "LOAD", source)
        return self._call("EVALSHA", sha1, 0, *flat)


@cache
def _wrapped(script: Script[Any, Any, Any]) -> str:
    return f"{_HEAD}local function script()\n{script.source}\nend{_TAIL}"


@cache
def _shift() -> str:
    text = _SHIFT
    names = {**{name.upper(): value for name, value in keys.PREFIXES.items()}, "SWEPT": keys.SWEPT}
    for word in ("LANE", "MEMBERS", "TAGS", "JOB", "ROOM", "SECONDS", "MINUTE", "PROMISE", "SWEPT"):
        text = text.replace(f" {word}", f" '{names[word]}'")
    return text


@cache
def _sha1(source: str) -> str:
    return hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()


def _parsed(shown: bytes) -> dict[str, Shown]:
    return {key: Shown(kind, left, _value(kind, value)) for key, kind, left, value in json.loads(shown)}


def _value(kind: str, value: Any) -> Any:
    if kind == "hash":
        return dict(zip(value[::2], value[1::2], strict=True))
    if kind == "zset":
        return dict(zip(value[::2], map(float, value[1::2]), strict=True))
    return set(value) if kind == "set" else value
