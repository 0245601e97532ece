"""Typed Lua scripts: what a script takes is declared once, in Python, and the head of its Lua is made from that.

A script's arguments are the fields of a NamedTuple, and what may follow any number of times are the fields of another,
its row. From their annotations comes the preamble `local id, cost = ARGV[1], tonumber(ARGV[2])` and an iterator
`for id, attempt in rows() do`. Of `shared/scripts/lib/` a script gets only the definitions it uses, as each is made
anew in every call. Key prefixes (`NAMES.job`) and shared numbers (`KEEP_MS`) are written in as literals.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import typing
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Any, Generic, Literal, TypeVar, cast

from shared import keys
from shared.protocol import SHARED
from shared.redis import Argument, RedisClient, RedisRefused, Reply

Flag = Literal["", "1"]
"""A truth, as scripts take it."""

Arguments = TypeVar("Arguments", bound=tuple[Any, ...])
Row = TypeVar("Row", bound=tuple[Any, ...])
Result = TypeVar("Result")

_DEFINITION = re.compile(r"^local (?:function (\w+)|([\w, ]+?) *=)", re.MULTILINE)
_WORD = re.compile(r"\b[A-Za-z_]\w*\b")
_NO_NAME = re.compile(r"--[^\n]*|'[^'\n]*'|\"[^\"\n]*\"|(?<!\.)\.[A-Za-z_]\w*")
"""What may look like the name of a definition and is none: comments, texts, fields."""
_LUA = resources.files("shared.scripts")


def flag(value: object) -> Flag:
    """Return a truth as scripts take it."""
    return "1" if value else ""


class NoRow(tuple[()]):
    """The row of a script that takes none."""

    __slots__ = ()
    _fields: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Script(Generic[Arguments, Row, Result]):
    """One script: its name, what it takes, and what becomes of its reply."""

    name: str
    arguments: type[Arguments]
    row: type[Row]
    read: Callable[[Reply], Result]
    """Makes the result of Redis's reply."""
    standing: type[tuple[Any, ...]] = NoRow
    """Further arguments, which a caller keeps ready because they seldom change."""

    @cached_property
    def source(self) -> str:
        """The whole text that Redis runs."""
        return _source(self.name, {**_types(self.arguments), **_types(self.standing)}, _types(self.row))

    @cached_property
    def sha1(self) -> bytes:
        """The hash by which Redis knows the script."""
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest().encode()


class Scripts:
    """Runs scripts by hash on one connection."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    async def load(self, *scripts: Script[Any, Any, Any]) -> None:
        """Load scripts into Redis, so that the first call of each finds them."""
        await asyncio.gather(*(self._client.call("SCRIPT", "LOAD", script.source) for script in scripts))

    def run(
        self,
        script: Script[Arguments, Row, Result],
        arguments: Arguments,
        rows: Iterable[Row] = (),
        standing: tuple[Argument, ...] = (),
    ) -> Coroutine[Any, Any, Result]:
        """Run a script and return its result; raises RedisRefused or RedisUnavailable.

        A row's last field may be a tuple: it goes out as its length and its members. `standing` are the script's
        standing arguments, where it has some.
        """
        flat: list[Argument] = [*arguments, *standing]
        for row in rows:
            if isinstance(row[-1], tuple):
                flat += (*row[:-1], len(row[-1]), *row[-1])
            else:
                flat += row
        return self.run_flat(script, flat)

    async def run_flat(self, script: Script[Any, Any, Result], flat: list[Argument]) -> Result:
        """As `run`, for callers that lay the arguments out by themselves.

        A restarted Redis has forgotten its scripts: NOSCRIPT means that nothing ran, so it is loaded and sent again.
        """
        sha1 = script.sha1
        try:
            return script.read(await self._client.call(b"EVALSHA", sha1, 0, *flat))
        except RedisRefused as error:
            if error.kind != "NOSCRIPT":
                raise
        await self._client.call("SCRIPT", "LOAD", script.source)
        return script.read(await self._client.call(b"EVALSHA", sha1, 0, *flat))


def _source(name: str, arguments: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    body = (_LUA / f"{name}.lua").read_text("utf-8")
    text = "\n".join((*_needed(body), _preamble(arguments), _iterator(arguments, row), body))
    text = re.sub(r"\bNAMES\.(\w+)", lambda match: f"'{_names()[match[1]]}'", text)
    return _WORD.sub(lambda match: _literal(match[0]), text)


@cache
def _names() -> dict[str, str]:
    return {**keys.PREFIXES, **keys.SINGLES}


def _literal(word: str) -> str:
    value = SHARED.get(word)
    if value is None:
        return word
    return f"'{value}'" if isinstance(value, str) else f"{value:.0f}"


@cache
def _library() -> dict[str, str]:
    """Return the definitions of the library in order, by name."""
    found: dict[str, str] = {}
    for file in ("base", "audit", "holds", "lanes", "usage", "limits", "windows", "ends"):
        text = (_LUA / "lib" / f"{file}.lua").read_text("utf-8")
        starts = list(_DEFINITION.finditer(text))
        for start, after in zip(starts, [*starts[1:], None], strict=True):
            end = after.start() if after else len(text)
            lines = text[start.start() : end].splitlines()
            found[start[1] or start[2]] = "\n".join(line for line in lines if not line.startswith("--"))
    return found


def _needed(body: str) -> list[str]:
    """Return the definitions that a script uses, and those that they use, in the library's order."""
    library, needed, waiting = _library(), set[str](), [body]
    while waiting:
        for name in library.keys() & set(_WORD.findall(_NO_NAME.sub(" ", waiting.pop()))) - needed:
            needed.add(name)
            waiting.append(library[name])
    return [text for name, text in library.items() if name in needed]


def _preamble(arguments: Mapping[str, Any]) -> str:
    if not arguments:
        return ""
    values = (_value(kind, f"ARGV[{number}]") for number, kind in enumerate(arguments.values(), 1))
    return f"local {', '.join(arguments)} = {', '.join(values)}"


def _iterator(arguments: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    if not row:
        return ""
    kinds = list(row.values())
    first = len(arguments) + 1
    is_open = typing.get_origin(kinds[-1]) is tuple
    fixed = kinds[:-1] if is_open else kinds
    values = ", ".join(_value(kind, f"ARGV[at + {number}]") for number, kind in enumerate(fixed))
    if is_open:  # then the place of the last field's first member, and how many there are
        values += f", at + {len(fixed) + 1}, count"
    step = f"{len(fixed) + 1} + count" if is_open else str(len(fixed))
    count = f"    local count = tonumber(ARGV[at + {len(fixed)}])\n" if is_open else ""
    return (
        f"local function rows()\n  local following = {first}\n  return function()\n    local at = following\n"
        f"    if not ARGV[at] then return nil end\n{count}    following = at + {step}\n    return {values}\n  end\nend"
    )


def _types(fields: type[tuple[Any, ...]]) -> dict[str, Any]:
    hints = typing.get_type_hints(fields)
    return {name: hints[name] for name in cast(Any, fields)._fields}


def _value(kind: Any, place: str) -> str:
    if kind == Flag:
        return f"{place} == '1'"
    if kind in (int, float):
        return f"tonumber({place})"
    return place
