"""Short functions in the place of their calls: what Lua computes stays the same."""

from __future__ import annotations

import re

import pytest

from shared.lua_inlining import inlined
from shared.room import scripts
from tests.support.processes import RedisServer

KEPT = re.compile(r"^local function (\w+)", re.MULTILINE)

CASES = {
    "a word": ("local function twice(a) return a + a end", "local n = 3\nreturn twice(n)", True),
    "a sum": ("local function less(a, b) return a - b end", "return 9 - less(5 - 1, 2 - 1)", True),
    "a missing one": ("local function or_one(a, b) return a and b or 1 end", "return or_one(7)", True),
    "within itself": ("local function more(a) return a + 1 end", "return more(more(more(4)))", True),
    "one of another": (
        "local function name(a) return 'n:' .. a end\nlocal function full(a, b) return name(a) .. '/' .. b end",
        "return full('x', 'y')",
        True,
    ),
    "a bracket in a text": ("local function first(a, b) return a .. b end", "return first('(', '),')", True),
    "a field": (
        "local function of(job) return job.lane .. job.tag end",
        "local j = {lane = 'l', tag = 't'}\nreturn of(j)",
        True,
    ),
    "a field of its name": (
        "local function up(lane) return lane + 1 end",
        "local j = {lane = 4}\nreturn up(j.lane)",
        True,
    ),
    "many values": (
        "local function words(a) return string.gmatch(a, '%S+') end",
        "for w in words('a b') do return w end",
        True,
    ),
    "all of a call's values": (
        "local function parts(a) return struct.unpack('BB', a) end",
        "local _, b = parts('xy')\nreturn b",
        True,
    ),
    "two calls": ("local function both(a) return tonumber(a) + tonumber('1') end", "return 9 - both('3')", True),
    # What cannot be put in its place:
    "looked at twice": ("local function twice(a) return a + a end", "return twice(tonumber('4'))", False),
    "handed on": ("local function more(a) return a + 1 end", "local f = more\nreturn f(1)", False),
    "two results": ("local function pair(a) return a, a end", "local _, b = pair(6)\nreturn b", False),
    "a table with its name": ("local function made(a) return {a = a} end", "return made(5).a", False),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_script_answers_as_before(case: str, module_redis: RedisServer) -> None:
    definition, body, is_gone = CASES[case]
    text = f"{definition}\n{body}"
    short = inlined(text)
    assert (not KEPT.findall(short)) is is_gone
    with module_redis.client() as client:
        assert client.eval(short, 0) == client.eval(text, 0) is not None


def test_the_scripts_of_a_request_make_none_of_them() -> None:
    for script in (scripts.ADMIT, scripts.TAKE, scripts.APPEND):
        assert not {"lane_key", "tags_key", "owed_field", "is_line"} & set(KEPT.findall(script.source))
        assert "'aq2:lane:'" in script.source


def test_no_comment_is_taken_for_a_call() -> None:
    text = "local function more(a) return a + 1 end\n-- more(1) is 2\nreturn more(1)"
    assert "-- more(1) is 2" in inlined(text)
