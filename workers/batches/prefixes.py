"""The lines of a batch, those that begin alike behind each other: a backend that keeps prefixes reads each once.

Lines in their order in; the same out, sorted within so many as are read ahead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import orjson

from shared.batches.lines import CheckedLine

AHEAD_LINES: Final = 2000
AHEAD_BYTES: Final = 4 * 1024 * 1024
"""Of text that is held read; parsed it takes several times as much."""
PREFIX_BYTES: Final = 4096
"""What is compared. Lines alike in so much stay in the order of the file."""
UNKNOWN_BYTES: Final = 64 * 1024
"""What a line counts as that cannot be measured."""


async def grouped(lines: AsyncIterator[CheckedLine]) -> AsyncIterator[CheckedLine]:
    """Yield every line once."""
    held: list[tuple[bytes, CheckedLine]] = []
    size = 0
    async for line in lines:
        prefix, length = _prefix(line)
        held.append((prefix, line))
        size += length
        if len(held) >= AHEAD_LINES or size >= AHEAD_BYTES:
            for one in _sorted(held):
                yield one
            held, size = [], 0
    for one in _sorted(held):
        yield one


def _sorted(held: list[tuple[bytes, CheckedLine]]) -> list[CheckedLine]:
    return [line for _, line in sorted(held, key=lambda pair: pair[0])]


def _prefix(line: CheckedLine) -> tuple[bytes, int]:
    """Return what a line begins with for the model (tools stand in front of messages), and how long it is."""
    body = line.body
    asked = body.get("messages", body.get("prompt", body.get("input")))
    try:
        text = orjson.dumps([body.get("tools"), asked])
    except TypeError:  # an integer of over 64 bits
        return b"", UNKNOWN_BYTES
    return text[:PREFIX_BYTES], len(text)
