"""What the Use page shows: hours of usage in; a table, and the columns of a chart, out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from api.ui.filters import number
from api.ui.use_query import MEASURES, Wanted
from shared.usage.counters import Counters
from shared.usage.ledger import DAY_HOURS, Used, moment_of
from shared.usage.report import summed

SERIES: Final = 7
"""That a chart tells apart; the rest is one more."""
HEIGHT: Final = 200.0
"""Of a chart, in its own units; a column is one unit wide."""
_STEPS: Final = (1, 1.5, 2, 3, 4, 5, 6, 8, 10)
UNNAMED: Final = "(too many to name)"

_MEASURES: Final[dict[str, Callable[[Counters], float]]] = {
    "tokens": lambda counts: counts.prompt_tokens + counts.completion_tokens,
    "requests": lambda counts: counts.requests,
    "slot_hours": lambda counts: counts.slot_ms / 3_600_000,
}


class Row(NamedTuple):
    """One line of the table."""

    value: str
    """As the filter of this dimension takes it; empty where it stands for several."""
    name: str
    counts: Counters
    share: float
    """Of the whole, by the measure, from 0 to 1."""
    series: int
    """Its place in the chart's legend, from 0 on."""


class Part(NamedTuple):
    """One block of a column."""

    series: int
    y: float
    height: float


class Column(NamedTuple):
    """One day or hour of the chart."""

    label: str
    short: str
    amount: str
    """What it holds, in words."""
    parts: Sequence[Part]


class Report(NamedTuple):
    """Everything that the page shows."""

    rows: Sequence[Row]
    total: Counters
    columns: Sequence[Column]
    top: float
    """The chart's upper edge, in the measure's unit."""
    series: Sequence[str]
    choices: dict[str, list[str]]
    """Groups, tokens and models that were used in this time, whatever the filters."""


def report(used: Sequence[Used], wanted: Wanted) -> Report:
    """Return what is shown of these hours."""
    measured = _MEASURES[wanted.measure]
    sums = {name: counts for (name,), counts in summed(used, [wanted.by], wanted.keeps).items()}
    total = Counters()
    for counts in sums.values():
        total = total.plus(counts)
    order = sorted(sums, key=lambda name: (-measured(sums[name]), name))
    place = {name: min(at, SERIES) for at, name in enumerate(order)}
    whole = measured(total)
    names_unnamed = _has_unnamed(used)
    rows = [
        Row(
            _value(name, wanted.by), _shown(name, wanted.by, names_unnamed), sums[name],
            measured(sums[name]) / whole if whole else 0.0, place[name],
        )
        for name in order
    ]  # fmt: skip
    columns, top = _columns(used, wanted, place, measured)
    names = [row.name for row in rows[:SERIES]] + (["others"] if len(rows) > SERIES else [])
    return Report(rows, total, columns, top, names, _choices(used))


def _has_unnamed(used: Iterable[Used]) -> bool:
    return any(not key.token for one in used for key in one.sums)


def _value(name: str, by: str) -> str:
    return name or ("-" if by == "group" else "")


def _shown(name: str, by: str, has_unnamed: bool) -> str:
    if name:
        return name
    if by == "group":
        return "no group" + (f" or {UNNAMED}" if has_unnamed else "")
    return UNNAMED


def _choices(used: Iterable[Used]) -> dict[str, list[str]]:
    keys = {key for one in used for key in one.sums if key.token}
    return {name: sorted({getattr(key, name) for key in keys} - {""}) for name in ("group", "token", "model")}


def _columns(
    used: Sequence[Used], wanted: Wanted, place: dict[str, int], measured: Callable[[Counters], float]
) -> tuple[list[Column], float]:
    width = 1 if wanted.hourly else DAY_HOURS
    first, end = wanted.hours
    amounts: dict[int, list[float]] = defaultdict(lambda: [0.0] * (SERIES + 1))
    for hour, sums in used:
        for key, counts in sums.items():
            if wanted.keeps(key):
                amounts[(hour - first) // width][place[str(getattr(key, wanted.by))]] += measured(counts)
    top = nice(max((sum(found) for found in amounts.values()), default=0))
    columns = []
    for at in range((end - first) // width):
        begins = moment_of(first + at * width)
        label = f"{begins:%a %d %b, %H:00}" if wanted.hourly else f"{begins:%a %d %b %Y}"
        short = f"{begins:%H:00}" if wanted.hourly and wanted.first == wanted.last else f"{begins:%d %b}"
        found = amounts.get(at, [])
        amount = f"{number(sum(found))} {MEASURES[wanted.measure].lower()}"
        columns.append(Column(label, short, amount, _stacked(found, top)))
    return columns, top


def _stacked(amounts: Sequence[float], top: float) -> list[Part]:
    parts, below = [], 0.0
    for series, amount in enumerate(amounts):
        if amount > 0:
            height = amount / top * HEIGHT
            below += height
            parts.append(Part(series, round(HEIGHT - below, 2), round(height, 2)))
    return parts


def nice(most: float) -> float:
    """Return the least round number that is no less."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in _STEPS if step * power >= most)
