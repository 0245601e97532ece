"""What is measured of one backend, and the throughput that it means: counts of a moment in, tokens a second out.

Counted tokens are noisy: requests differ in length, and whole answers come at once. Little's law tells the same
throughput from what is steady: requests in flight, divided by how long one of usual length would take at the time to
first token and the time between chunks that are measured now.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

MEMORY_SECONDS: Final = 30.0
"""The usual request is an average over some such time."""
_PRIOR_FIRSTS: Final = 1.0
_PRIOR_ENDS: Final = 4.0
"""How much the usual counts beside what a window saw of first tokens and ends."""
_UNKNOWN_LENGTH: Final = 100.0
"""Chunks of a request, before any has ended."""


@dataclass(slots=True)
class Counts:
    """What happened at a backend within some time, of one process or of all."""

    seconds: float = 0.0
    slot_seconds: float = 0.0
    """Requests in flight, integrated over the time."""
    refused: int = 0
    """429 and 503."""
    first_seconds: float = 0.0
    """Of streams, those slot-seconds before a first chunk."""
    firsts: int = 0
    stream_seconds: float = 0.0
    """Of streams, those slot-seconds after the first chunk."""
    chunks: int = 0
    ends: int = 0
    end_chunks: int = 0
    end_tokens: int = 0
    """Completion tokens of streams that ended, as they told; else their chunks."""
    plain_ends: int = 0
    """Whole answers to requests that began under the present limit."""
    plain_seconds: float = 0.0
    """How long they had taken."""
    plain_units: float = 0.0
    """Their size, in units of four bytes."""

    def add(self, other: Counts, weight: float = 1.0) -> None:
        """Count another time too."""
        for field in _FIELDS:
            setattr(self, field, getattr(self, field) + weight * getattr(other, field))

    def scale(self, factor: float) -> None:
        """Let all count less, or more."""
        for field in _FIELDS:
            setattr(self, field, getattr(self, field) * factor)

    def row(self) -> list[float]:
        """Return the numbers as they travel."""
        return [round(getattr(self, field), 6) for field in _FIELDS]

    @classmethod
    def of(cls, row: object) -> Counts:
        """Return the counts of a row; raises ValueError for what is none. Numbers that are missing or more are 0."""
        if not isinstance(row, list) or not all(isinstance(number, int | float) and number >= 0 for number in row):
            raise ValueError("no counts")
        return cls(**dict(zip(_FIELDS, row, strict=False)))

    @property
    def in_flight(self) -> float:
        """Requests in flight on average."""
        return self.slot_seconds / self.seconds if self.seconds else 0.0


_FIELDS: Final = tuple(field.name for field in fields(Counts))


class Usual:
    """What requests of this backend are like: an average that forgets."""

    def __init__(self) -> None:
        self.counts = Counts()

    def add(self, counts: Counts) -> None:
        """Count what has just happened."""
        self.counts.scale(0.5 ** (counts.seconds / MEMORY_SECONDS))
        self.counts.add(counts)

    @property
    def chunks(self) -> float:
        """Of a stream."""
        seen = self.counts
        return max(1.0, seen.end_chunks / seen.ends) if seen.ends >= 1 else _UNKNOWN_LENGTH

    @property
    def first_seconds(self) -> float:
        """To a stream's first chunk."""
        seen = self.counts
        return seen.first_seconds / seen.firsts if seen.firsts else seen.first_seconds

    @property
    def tokens_a_chunk(self) -> float:
        """Of streams."""
        seen = self.counts
        return seen.end_tokens / seen.end_chunks if seen.end_chunks else 1.0

    @property
    def plain_seconds(self) -> float:
        """Of a whole answer."""
        return self.counts.plain_seconds / self.counts.plain_ends if self.counts.plain_ends else 0.0

    @property
    def plain_share(self) -> float:
        """Part of the slots' time that went to whole answers."""
        seen = self.counts
        streams = seen.first_seconds + seen.stream_seconds
        whole = max(seen.plain_seconds, seen.slot_seconds - streams)
        return whole / (whole + streams) if whole + streams > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A backend's throughput at a number of requests in flight."""

    in_flight: float
    throughput: float
    """Tokens a second; whole answers count a token for four bytes."""

    @property
    def speed(self) -> float:
        """Tokens a second of one request."""
        return self.throughput / max(self.in_flight, 1e-9)


def sample(counts: Counts, usual: Usual) -> Sample | None:
    """Return what a window's counts mean, or None where too little happened to tell."""
    share = usual.plain_share
    streams, whole = _stream_speed(counts, usual), _whole_speed(counts)
    if streams is None and whole is None:
        return None
    if streams is None or whole is None:
        return Sample(counts.in_flight, counts.in_flight * (streams or whole or 0.0))
    return Sample(counts.in_flight, counts.in_flight * ((1 - share) * streams + share * whole))


def _stream_speed(counts: Counts, usual: Usual) -> float | None:
    """Return the tokens a second of a stream of usual length."""
    if not counts.chunks or not counts.stream_seconds:
        return None
    chunks = usual.chunks
    first = (counts.first_seconds + _PRIOR_FIRSTS * usual.first_seconds) / (counts.firsts + _PRIOR_FIRSTS)
    prior = _PRIOR_ENDS * chunks
    tokens = (counts.end_tokens + prior * usual.tokens_a_chunk) / (counts.end_chunks + prior)
    return tokens * chunks / (first + chunks * counts.stream_seconds / counts.chunks)


def _whole_speed(counts: Counts) -> float | None:
    return counts.plain_units / counts.plain_seconds if counts.plain_ends and counts.plain_seconds else None


def tells_enough(counts: Counts, usual: Usual, *, roughly: bool) -> bool:
    """Whether so many things happened that chance plays no large part; roughly, where only a factor is asked for."""
    if roughly and usual.plain_share <= 0.5:
        return counts.chunks >= 16 and counts.firsts >= max(1.0, counts.in_flight / 4)
    if usual.plain_share > 0.5:
        return counts.plain_ends >= max(8.0, 0.75 * counts.in_flight)
    return counts.chunks >= 120 and counts.firsts >= 6
