"""Typed Lua scripts: what a script takes is declared once, in Python, and the head of its Lua is made from that.

A script's arguments are the fields of a NamedTuple, and what may follow any number of times are the fields of another,
its row. From their annotations comes the preamble, which makes each a local of its name, and an iterator
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
from typing import Any, Generic, TypeVar

from shared import keys
from shared.lua_inlining import inlined
from shared.protocol import SHARED
from shared.redis import Argument, RedisClient, RedisRefused, Reply
from shared.script_arguments import Flag, Packed, Spread, fields_of, plain

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
    keeps_rows: bool = False
    """So are its rows, each as one argument; they hold no truths."""

    @cached_property
    def source(self) -> str:
        """The whole text that Redis runs."""
        lines = self._spread.lua()
        if self._standing:
            lines += self._standing.lua(f"ARGV[{self._spread.count + 1}]")
        if self._row:
            first = self._spread.count + bool(self._standing) + 1
            lines.append(_kept_rows(first, self._row) if self.keeps_rows else _rows(first, fields_of(self.row)))
        return _source(self.name, lines)

    def lay_out(self, arguments: Arguments, rows: Iterable[Row | bytes] = (), standing: bytes = b"") -> list[Argument]:
        """Return what goes to Redis; `standing` and rows as `stand` and `keep` have made them, where they are kept.

        A row's last field may be a tuple: it goes out as its length and its members.
        """
        flat = self._spread.lay_out(arguments)
        if self._standing:
            flat.append(standing)
        for row in rows:
            if isinstance(row, bytes):
                flat.append(row)
            elif isinstance(row[-1], tuple):
                flat += (*row[:-1], len(row[-1]), *row[-1])
            else:
                flat += row
        return flat

    def stand(self, values: tuple[Any, ...]) -> bytes:
        """Return the standing arguments as they travel."""
        return Packed(fields_of(self.standing)).pack(values)

    def keep(self, row: Row) -> bytes:
        """Return a row as it travels, of a script that `keeps_rows`."""
        return Packed(fields_of(self.row)).pack(row)

    @cached_property
    def _spread(self) -> Spread:
        return Spread(fields_of(self.arguments))

    @cached_property
    def _standing(self) -> Packed | None:
        return Packed(fields_of(self.standing)) if fields_of(self.standing) else None

    @cached_property
    def _row(self) -> Packed | None:
        return Packed(fields_of(self.row)) if fields_of(self.row) else None

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
        texts = [script.source for script in scripts]  # made before the first call's time runs
        await asyncio.gather(*(self._client.call("SCRIPT", "LOAD", text) for text in texts))

    def run(
        self,
        script: Script[Arguments, Row, Result],
        arguments: Arguments,
        rows: Iterable[Row | bytes] = (),
        standing: bytes = b"",
    ) -> Coroutine[Any, Any, Result]:
        """Run a script and return its result, see `Script.lay_out`; raises RedisRefused or RedisUnavailable."""
        return self.run_flat(script, script.lay_out(arguments, rows, standing))

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


def _source(name: str, preamble: list[str]) -> str:
    body = (_LUA / f"{name}.lua").read_text("utf-8")
    text = inlined("\n".join((*_needed(body), *preamble, body)))
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
    for file in ("base", "audit", "holds", "lanes", "line", "usage", "limits", "windows", "ends"):
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


def _rows(first: int, row: Mapping[str, Any]) -> str:
    kinds = list(row.values())
    is_open = typing.get_origin(kinds[-1]) is tuple
    fixed = kinds[:-1] if is_open else kinds
    values = ", ".join(plain(kind, f"ARGV[at + {number}]") for number, kind in enumerate(fixed))
    if is_open:  # then the place of the last field's first member, and how many there are
        values += f", at + {len(fixed) + 1}, count"
    step = f"{len(fixed) + 1} + count" if is_open else str(len(fixed))
    count = f"    local count = tonumber(ARGV[at + {len(fixed)}])\n" if is_open else ""
    return _iterator(first, count, step, values)


def _kept_rows(first: int, row: Packed) -> str:
    return _iterator(first, "", "1", row.expression)


def _iterator(first: int, count: str, step: str, values: str) -> str:
    return (
        f"local function rows()\n  local following = {first}\n  return function()\n    local at = following\n"
        f"    if not ARGV[at] then return nil end\n{count}    following = at + {step}\n    return {values}\n  end\nend"
    )
