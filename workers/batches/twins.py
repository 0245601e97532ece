"""Lines of one batch that ask the same and must be answered the same: one of them runs, its answer is given to all."""

from __future__ import annotations

import hashlib
from typing import Final

import orjson

from shared.batches.lines import CheckedLine

MAX_TWINS: Final = 1000
"""Lines that wait for others' answers, which all come in one step; further ones run by themselves."""


class Twins:
    """Which line under way a new one is the same as."""

    def __init__(self, most: int = MAX_TWINS) -> None:
        """Take how many may wait for others; 0: every line runs by itself."""
        self._most = most
        self._leaders: dict[bytes, int] = {}
        """Lines under way, by what they ask."""
        self._marks: dict[int, bytes] = {}
        """The same the other way round."""
        self._waiting: dict[int, list[tuple[int, str]]] = {}
        """Of a line under way, those that get its answer: number and custom_id."""
        self._count = 0

    def follows(self, line: CheckedLine) -> bool:
        """Have a line wait for one that is the same and under way; else it is to run, and others may wait for it."""
        mark = _mark(line) if self._most else None
        if mark is None:
            return False
        leader = self._leaders.get(mark)
        if leader is None:
            self._leaders[mark], self._marks[line.number] = line.number, mark
            return False
        if self._count >= self._most:
            return False
        self._waiting.setdefault(leader, []).append((line.number, line.custom_id))
        self._count += 1
        return True

    def ended(self, number: int) -> list[tuple[int, str]]:
        """Return the lines that get this one's answer; none waits for it any more."""
        mark = self._marks.pop(number, None)
        if mark is None:
            return []
        del self._leaders[mark]
        twins = self._waiting.pop(number, [])
        self._count -= len(twins)
        return twins


def _mark(line: CheckedLine) -> bytes | None:
    """Return what stands for all that a line asks; None where its answer may differ each time."""
    temperature, seed = line.body.get("temperature"), line.body.get("seed")
    if temperature != 0 and seed is None:
        return None
    try:
        asked = orjson.dumps(line.body, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer of over 64 bits
        return None
    return hashlib.blake2b(asked, digest_size=16).digest()
