"""What is counted of each token, group, model, lane and kind, and how counts are added up.

The scripts count where jobs end (`shared/scripts/lib/usage.lua`), in this order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Counters(NamedTuple):
    """Sums over jobs that have ended. Each job counts once, however often it ran."""

    requests: int = 0
    errors: int = 0
    cancelled: int = 0
    estimated: int = 0
    """Jobs of which some tokens are estimated, as the backend told nothing, or was cut before it could."""
    prompt_tokens: int = 0
    """The estimated ones included, as in `completion_tokens`."""
    cached_tokens: int = 0
    """Of the prompt, read from the backend's cache."""
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    """Of the completion."""
    estimated_prompt_tokens: int = 0
    estimated_completion_tokens: int = 0
    queue_ms: int = 0
    """From admission until the run that counted began, or until a waiting job ended."""
    run_ms: int = 0
    """Of the last run, by its worker's clock."""
    slot_ms: int = 0
    """For which slots were held, runs that were lost included, by Redis's clock."""

    def plus(self, other: Counters) -> Counters:
        """Return both together."""
        return Counters(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def most(self, other: Counters) -> Counters:
        """Return of each count the larger: two copies of one sum that only grows."""
        return Counters(*map(max, self, other))


class Key(NamedTuple):
    """Whose and which work it was."""

    token: str
    group: str
    """Empty where the token is in none."""
    model: str
    lane: str
    kind: str

    @classmethod
    def of(cls, field: str) -> Key | None:
        """Return the key of a field as the scripts write it; None for what is none."""
        parts = field.split(" ")
        if len(parts) != len(cls._fields):
            return None
        if set(parts) == {"-"}:  # the sum of those that have no field of their own
            return cls("", "", "", "", "")
        return cls(parts[0], "" if parts[1] == "-" else parts[1], *parts[2:])  # a token may be called `-`, no group is

    @property
    def field(self) -> str:
        """The key as the scripts write it."""
        return " ".join(part or "-" for part in self)


Sums = dict[Key, Counters]
"""What was used in one hour or day."""


def counters(numbers: Iterable[int]) -> Counters:
    """Return counts as they were written; a newer version may have written more, an older one fewer."""
    return Counters(*list(numbers)[: len(Counters._fields)])


def together(parts: Iterable[Sums]) -> Sums:
    """Return the sum of several hours or origins."""
    out: Sums = {}
    for part in parts:
        for key, counts in part.items():
            known = out.get(key)
            out[key] = counts if known is None else known.plus(counts)
    return out


def larger(mine: Sums, theirs: Sums) -> Sums:
    """Return of each count the larger of two copies."""
    out = dict(mine)
    for key, counts in theirs.items():
        known = out.get(key)
        out[key] = counts if known is None else known.most(counts)
    return out
