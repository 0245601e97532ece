"""What a process says of the present beside its counts: how many calls are open at a backend, which batch stands still.

Each process tells its own part with its counts, and Redis forgets it some seconds after the last word, so that who is
killed is soon left out. A metric says how the parts of several processes become one number (`Metric.across`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import orjson

from shared.metrics.names import TOLD, Metric

Labels = tuple[str, ...]

STATES_MS: Final = 10_000
"""How long a process's word counts; it comes again every two seconds."""
GONE: Final = "gone"
"""In the place of states: the process has nothing to say any more."""

_BY_SHORT: Final = {metric.short: metric for metric in TOLD}
_ACROSS: Final[dict[str, Callable[[list[float]], float]]] = {
    "sum": sum,
    "max": max,
    "min": min,
    "mean": lambda values: sum(values) / len(values),
}


class State(NamedTuple):
    """One number of a process, with all labels of its metric in order."""

    metric: Metric
    labels: Labels
    value: float


def packed(states: Iterable[State]) -> bytes:
    """Return states as they lie in Redis."""
    return orjson.dumps([(metric.short, labels, value) for metric, labels, value in states])


def merged(parts: Iterable[bytes]) -> dict[Metric, dict[Labels, float]]:
    """Return the whole of what processes said; what another version said and this one does not know is left out."""
    found: dict[Metric, dict[Labels, list[float]]] = defaultdict(lambda: defaultdict(list))
    for part in parts:
        try:
            for short, labels, value in orjson.loads(part):
                metric, number = _BY_SHORT.get(short), float(value)
                if metric is not None and len(labels) == len(metric.all_labels):
                    found[metric][tuple(map(str, labels))].append(number)
        except (ValueError, TypeError):
            continue
    return {metric: _across(metric, values) for metric, values in found.items()}


def _across(metric: Metric, values: Mapping[Labels, list[float]]) -> dict[Labels, float]:
    add_up = _ACROSS[metric.across]
    return {labels: add_up(numbers) for labels, numbers in values.items()}
