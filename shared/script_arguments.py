"""How the fields of a NamedTuple travel to a script, and the Lua that reads them again.

Each argument of its own costs Redis about as much as a small command: it is parsed, copied, made a string of Lua's, and
made a number of that. So all numbers and truths of a call travel as one packed argument; and what seldom changes, text
and all, as one that its caller keeps ready. Numbers are doubles, as Lua's are.
"""

from __future__ import annotations

import struct
import typing
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import itemgetter
from typing import Any, Final, Literal, cast

from shared.redis import Argument

Flag = Literal["", "1"]
"""A truth, as scripts take it."""

_NUMBERS: Final = (int, float)
_FEWEST: Final = 2
"""Numbers that are worth packing."""


def fields_of(kind: type[tuple[Any, ...]]) -> dict[str, Any]:
    """Return the fields of a NamedTuple with their types."""
    hints = typing.get_type_hints(kind)
    return {name: hints[name] for name in cast(Any, kind)._fields}


class Spread:
    """Arguments that change with each call: the numbers as one, texts as they are."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        names = list(fields)
        numbers = [place for place, kind in enumerate(fields.values()) if kind == Flag or kind in _NUMBERS]
        self._is_packed = len(numbers) >= _FEWEST
        self._packed = [names[place] for place in numbers] if self._is_packed else []
        self._apart = [name for name in names if name not in self._packed]
        if self._is_packed:
            letters = ("?" if fields[name] == Flag else "d" for name in self._packed)
            self._pack = struct.Struct("<" + "".join(letters)).pack
            self._numbers = itemgetter(*numbers)
            self._texts = _getter([names.index(name) for name in self._apart])
        self.count = len(self._apart) + self._is_packed
        """Of arguments of the script."""

    def lay_out(self, values: Sequence[Any]) -> list[Argument]:
        """Return the values as the script takes them."""
        if not self._is_packed:
            return [*values]
        return [self._pack(*self._numbers(values)), *self._texts(values)]

    def lua(self) -> list[str]:
        """Return the lines of Lua that read them."""
        lines = _unpacked({name: self._fields[name] for name in self._packed}, "ARGV[1]") if self._is_packed else []
        if self._apart:
            first = 1 + self._is_packed
            values = (plain(self._fields[name], f"ARGV[{number}]") for number, name in enumerate(self._apart, first))
            lines.append(f"local {', '.join(self._apart)} = {', '.join(values)}")
        return lines


class Packed:
    """Fields as one argument, texts included: dear to make, so it is kept."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def pack(self, values: Sequence[Any]) -> bytes:
        """Return the values as the script takes them."""
        return b"".join(map(_packed, self._fields.values(), values))

    def lua(self, place: str) -> list[str]:
        """Return the lines of Lua that read them; `place` is where they are."""
        return _unpacked(self._fields, place)

    @cached_property
    def expression(self) -> str:
        """The values as one Lua expression of `ARGV[at]`; it has no truths."""
        return f"struct.unpack('{_format(self._fields)}', ARGV[at])"


def plain(kind: Any, place: str) -> str:
    """Return the Lua that reads one argument."""
    if kind == Flag:
        return f"{place} == '1'"
    return f"tonumber({place})" if kind in _NUMBERS else place


def _unpacked(fields: Mapping[str, Any], place: str) -> list[str]:
    lines = [f"local {', '.join(fields)} = struct.unpack('{_format(fields)}', {place})"]
    if flags := [name for name, kind in fields.items() if kind == Flag]:
        lines.append(f"{', '.join(flags)} = {', '.join(f'{name} == 1' for name in flags)}")
    return lines


def _format(fields: Mapping[str, Any]) -> str:
    letters = ("B" if kind == Flag else "d" if kind in _NUMBERS else "I4c0" for kind in fields.values())
    return "<" + "".join(letters)


def _packed(kind: Any, value: Any) -> bytes:
    if kind == Flag:
        return struct.pack("?", value)
    if kind in _NUMBERS:
        return struct.pack("<d", value)
    text = value.encode() if isinstance(value, str) else bytes(value)
    return struct.pack("<I", len(text)) + text


def _getter(places: Sequence[int]) -> Any:
    if len(places) > 1:
        return itemgetter(*places)
    return itemgetter(slice(places[0], places[0] + 1) if places else slice(0))  # which is a tuple too
