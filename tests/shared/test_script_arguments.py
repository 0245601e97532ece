"""What a script is told arrives as it was: numbers, truths and texts, packed or not."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from shared.script_arguments import Flag, Packed, Spread, fields_of
from tests.support.processes import RedisServer


class Mixed(NamedTuple):
    """Of each sort some."""

    name: str
    number: int
    is_so: Flag
    body: bytes
    part: float
    is_not: Flag


class Texts(NamedTuple):
    """Nothing to pack."""

    name: str
    number: int


class Numbers(NamedTuple):
    """Nothing but numbers."""

    one: int
    other: float


LONG = 2**53 - 1
MIXED = Mixed("näme\0", LONG, "1", b"\xff\x00{}\r\n", -0.125, "")


def told(server: RedisServer, lines: list[str], names: tuple[str, ...], arguments: list[Any]) -> list[bytes]:
    """Return what the script finds under each name, as text."""
    words = ", ".join(
        f"type({name}) == 'number' and string.format('%.17g', {name}) or tostring({name})" for name in names
    )
    with server.client() as client:
        answer: list[bytes] = client.eval("\n".join((*lines, f"return {{{words}}}")), 0, *arguments)
    return answer


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (MIXED, ["näme\0".encode(), b"%d" % LONG, b"true", b"\xff\x00{}\r\n", b"-0.125", b"false"]),
        (Texts("", 7), [b"", b"7"]),
        (Numbers(1, 2.5), [b"1", b"2.5"]),
    ],
    ids=["mixed", "too few to pack", "numbers alone"],
)
def test_arguments_that_change_arrive(values: Any, wanted: list[bytes], module_redis: RedisServer) -> None:
    spread = Spread(fields_of(type(values)))
    laid_out = spread.lay_out(values)
    assert len(laid_out) == spread.count
    assert told(module_redis, spread.lua(), values._fields, laid_out) == wanted


def test_numbers_are_one_argument() -> None:
    assert Spread(fields_of(Mixed)).count == 3
    assert Spread(fields_of(Numbers)).count == 1


def test_what_is_kept_arrives_as_one(module_redis: RedisServer) -> None:
    packed = Packed(fields_of(Mixed))
    found = told(module_redis, packed.lua("ARGV[1]"), Mixed._fields, [packed.pack(MIXED)])
    assert found == ["näme\0".encode(), b"%d" % LONG, b"true", b"\xff\x00{}\r\n", b"-0.125", b"false"]
