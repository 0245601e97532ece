"""A process's own counts since it last told of them: plain numbers, which one call each makes larger."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final

from shared.metrics.names import Metric
from shared.metrics.states import State

MICRO: Final = 1_000_000
"""Sums travel as whole millionths."""
SEPARATOR: Final = "\t"
SUM: Final = "sum"
INFINITE: Final = "+Inf"

Taken = dict[str, dict[str, int]]
"""What is new: by model (empty: of none), by field, as `field` writes it."""


def field(metric: Metric, labels: tuple[str, ...], part: str | None = None) -> str:
    """Return how Redis knows a number: the metric, its labels beside the model, of histograms the bound or `sum`."""
    parts = (metric.short, *labels) if part is None else (metric.short, *labels, part)
    return SEPARATOR.join(parts)


class Tally:
    """One counter with its labels: `number` is what is new."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0


class Observations:
    """The numbers of one histogram with its labels."""

    __slots__ = ("_bounds", "_buckets", "_fields", "_sum")

    def __init__(self, metric: Metric, labels: tuple[str, ...]) -> None:
        self._bounds = metric.buckets
        self._buckets = [0] * (len(metric.buckets) + 1)
        self._sum = 0.0
        bounds = (*map(str, metric.buckets), INFINITE)
        self._fields = [field(metric, labels, bound) for bound in bounds]
        self._fields.append(field(metric, labels, SUM))

    def observe(self, value: float) -> None:
        """Count one value."""
        self._buckets[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def take(self, into: dict[str, int]) -> None:
        """Move what is new into a mapping."""
        for place, count in enumerate(self._buckets):
            if count:
                into[self._fields[place]] = count
                self._buckets[place] = 0
        if self._sum:
            into[self._fields[-1]] = round(self._sum * MICRO)
            self._sum = 0.0


class Counts:
    """All that one process counts. Used on one event loop."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[Metric, str, tuple[str, ...]], Tally] = {}
        self._observations: dict[tuple[Metric, str, tuple[str, ...]], Observations] = {}
        self.before_telling: list[Callable[[], Iterable[State]]] = []
        """Called before each telling, on the event loop: counts what is counted elsewhere, returns what stands now."""

    def add(self, metric: Metric, model: str = "", labels: tuple[str, ...] = (), number: int = 1) -> None:
        """Count so many more."""
        self.tally(metric, model, labels).number += number

    def tally(self, metric: Metric, model: str = "", labels: tuple[str, ...] = ()) -> Tally:
        """Return a counter, always the same object: what counts often keeps it."""
        key = (metric, model, labels)
        found = self._tallies.get(key)
        if found is None:
            found = self._tallies[key] = Tally()
        return found

    def observations(self, metric: Metric, model: str = "", labels: tuple[str, ...] = ()) -> Observations:
        """Return a histogram's numbers, always the same object: what observes often keeps it."""
        key = (metric, model, labels)
        found = self._observations.get(key)
        if found is None:
            found = self._observations[key] = Observations(metric, labels)
        return found

    def take(self) -> Taken:
        """Return what is new, and begin anew."""
        taken: Taken = {}
        for (metric, model, labels), tally in self._tallies.items():
            if tally.number:
                taken.setdefault(model, {})[field(metric, labels)] = tally.number
                tally.number = 0
        for (_, model, _), observed in self._observations.items():
            observed.take(taken.setdefault(model, {}))
        return {model: fields for model, fields in taken.items() if fields}
