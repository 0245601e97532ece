"""The last hour of a model, a point every fifteen seconds: how it stood then, and what was counted since the last.

A point is JSON of short names, a list of them a model in Redis: `t` Unix seconds, `d` seconds since the point before,
`w` waiting, `o` ms that the oldest had waited, `r` running, `s` slots, `n` what is new. There, `q` and an HTTP status
and error code tell of requests, `w` and `f` and a bucket's place of waits and first tokens, `h` and a reason of who was
held, `b` and `l` and a backend's mark and a status or a bucket's place of calls.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import orjson

from shared.metrics import names
from shared.metrics.counts import SEPARATOR, SUM
from shared.metrics.names import Metric
from shared.protocol import HISTORY_POINTS

POINTS: Final = HISTORY_POINTS
"""An hour of them."""
_MARK: Final = 4
"""Digits by which a backend is told from a model's others."""

Summary = dict[str, int]
"""What was counted of a model, added up over kinds and lanes; each as in `n` of a point."""


@dataclass(frozen=True, slots=True)
class Point:
    """One of them."""

    at: float
    """Unix seconds of the writer's clock."""
    waiting: int
    oldest_ms: int
    running: int
    slots: int
    seconds: float
    """Since the point before."""
    new: Summary = field(default_factory=dict)

    def written(self) -> bytes:
        """Return it as it lies in Redis."""
        told = {
            "t": round(self.at, 3), "d": round(self.seconds, 1), "w": self.waiting, "o": self.oldest_ms,
            "r": self.running, "s": self.slots,
        }  # fmt: skip
        return orjson.dumps({**told, "n": self.new} if self.new else told)


def read_point(text: bytes) -> Point | None:
    """Return what lies there; None for what another version has written."""
    try:
        told = orjson.loads(text)
        new = {str(name): int(number) for name, number in told.get("n", {}).items()}
        waiting, oldest_ms, running, slots = (int(told[name]) for name in "wors")
        return Point(float(told["t"]), waiting, oldest_ms, running, slots, float(told["d"]), new)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def mark(address: str) -> str:
    """Return by what a backend's host and port are known in a point."""
    return hashlib.sha256(address.encode()).hexdigest()[:_MARK]


def summary(counted: Mapping[str, int]) -> Summary:
    """Return the sums of a model's fields (`shared/metrics/counts.py`) that points tell of."""
    found: Counter[str] = Counter()
    for name, number in counted.items():
        short, *rest = name.split(SEPARATOR)
        key = _key(short, rest) if len(rest) == _LENGTHS.get(short) else None
        if key is not None:
            found[key] += number
    return dict(found)


_LENGTHS: Final = {
    metric.short: len(metric.labels) + (metric.type == "histogram")
    for metric in (names.REQUESTS, names.WAIT_SECONDS, names.FIRST_TOKEN_SECONDS, names.HELD)
}
_CALLS: Final = names.BACKEND_SECONDS.short
_OF_CALLS: Final = 4


def _key(short: str, rest: Sequence[str]) -> str | None:
    if short == names.REQUESTS.short:
        return f"q{rest[2]} {rest[3]}".rstrip()
    if short == names.HELD.short:
        return f"h{rest[2]}"
    if rest[-1] == SUM:
        return None
    if short == names.WAIT_SECONDS.short:
        return f"w{_place(names.WAIT_SECONDS, rest[-1])}"
    return f"f{_place(names.FIRST_TOKEN_SECONDS, rest[-1])}"


def _place(metric: Metric, bound: str) -> int:
    return bisect_left(metric.buckets, float(bound))


def calls_of(counted: Mapping[str, int]) -> Summary:
    """Return the same of the calls of a model's backends."""
    found: Counter[str] = Counter()
    for name, number in counted.items():
        short, *rest = name.split(SEPARATOR)
        if short == _CALLS and len(rest) == _OF_CALLS and rest[-1] != SUM:
            _, address, code, bound = rest
            found[f"b{mark(address)}{code}"] += number
            found[f"l{mark(address)}{_place(names.BACKEND_SECONDS, bound)}"] += number
    return dict(found)


def news(now: Summary, before: Summary) -> Summary:
    """Return what was counted between two looks; numbers that fell have begun anew."""
    found = {}
    for name, number in now.items():
        known = before.get(name, 0)
        if number != known:
            found[name] = number - known if number > known else number
    return found


# --- reading ----------------------------------------------------------------------------------------------------------


class Calls(NamedTuple):
    """What became of the calls of one backend."""

    total: int
    failed: int
    """By `is_failed_call`."""
    codes: dict[str, int]
    p50: float | None
    """Seconds."""
    p95: float | None


@dataclass(frozen=True, slots=True)
class Span:
    """What happened between some points, and how it can be asked."""

    seconds: float
    """How long they cover."""
    new: Summary

    def requests(self) -> dict[str, int]:
        """Return how many requests ended, by status and error code."""
        return {name[1:]: number for name, number in self.new.items() if name[0] == "q"}

    def total(self) -> int:
        """Return how many requests ended."""
        return sum(self.requests().values())

    def failed(self) -> int:
        """Return how many of them failed, by `is_failure`."""
        return sum(number for outcome, number in self.requests().items() if is_failure(outcome))

    def answered(self) -> int:
        """Return how many of them had an answer."""
        return sum(number for outcome, number in self.requests().items() if outcome < "400")

    def held(self) -> dict[str, int]:
        """Return how many requests could not begin at once, by reason; the most frequent first."""
        found = Counter({name[1:]: number for name, number in self.new.items() if name[0] == "h"})
        return dict(found.most_common())

    def wait(self, share: float) -> float | None:
        """Return within how many seconds such a share of the requests had their turn."""
        return self._quantile("w", names.WAIT_SECONDS.buckets, share)

    def first_token(self, share: float) -> float | None:
        """Return within how many seconds such a share of the streams had their first token."""
        return self._quantile("f", names.FIRST_TOKEN_SECONDS.buckets, share)

    def calls(self, address: str) -> Calls:
        """Return what became of a backend's calls."""
        own = f"b{mark(address)}"
        codes = {name[len(own) :]: number for name, number in self.new.items() if name.startswith(own)}
        failed = sum(number for code, number in codes.items() if is_failed_call(code))
        bounds, letter = names.BACKEND_SECONDS.buckets, f"l{mark(address)}"
        p50, p95 = (self._quantile(letter, bounds, share) for share in (0.5, 0.95))
        return Calls(sum(codes.values()), failed, codes, p50, p95)

    def per_minute(self, number: int) -> float | None:
        """Return a number as a rate; None where nothing is known yet."""
        return number * 60 / self.seconds if self.seconds else None

    def _quantile(self, letter: str, bounds: tuple[float, ...], share: float) -> float | None:
        counts = [self.new.get(f"{letter}{place}", 0) for place in range(len(bounds) + 1)]
        return quantile(counts, bounds, share)


def is_failure(outcome: str) -> bool:
    """Whether a request's status and error code say that the gateway did not do its part, or was full."""
    code, _, error = outcome.partition(" ")
    return code >= "500" or error == "queue_full"


def is_failed_call(code: str) -> bool:
    """Whether a backend's status says that it did not do its part; 0: it gave no answer at all."""
    return code >= "500" or code in ("0", "408", "429")


def quantile(counts: Sequence[int], bounds: Sequence[float], share: float) -> float | None:
    """Return a quantile as Prometheus reckons it: evenly spread within a bucket; of the last, its lower bound."""
    total, below = sum(counts), 0
    if not total:
        return None
    for place, count in enumerate(counts[:-1]):
        if count and below + count >= share * total:
            low = bounds[place - 1] if place else 0.0
            return low + (bounds[place] - low) * (share * total - below) / count
        below += count
    return bounds[-1]


def span(points: Iterable[Point]) -> Span:
    """Return what happened in these points."""
    new: Counter[str] = Counter()
    seconds = 0.0
    for point in points:
        seconds += point.seconds
        new.update(point.new)
    return Span(seconds, dict(new))
