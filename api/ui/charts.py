"""Points in, what a template draws of them out: lines over the last hour, and a text for whoever sees none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from api.ui.filters import number, seconds
from api.ui.wait_words import waited_for
from shared.metrics.history import Point, Span, span

HOUR_SECONDS: Final = 3600
BINS: Final = 120
"""Of the hour, each 30 s: a chart is some 300 pixels wide."""
WIDTH: Final = 360
HEIGHT: Final = 120
LEFT: Final = 38
RIGHT: Final = 6
TOP: Final = 8
BOTTOM: Final = 20
MOST_REASONS: Final = 6
SPARK_WIDTH: Final = 240
SPARK_HEIGHT: Final = 60

Values = tuple[float | None, ...]
Write = Callable[[float | None], str]


class Series(NamedTuple):
    """One line: a value a bin, None where nothing is known."""

    name: str
    colour: int
    """Of the style sheet's eight."""
    values: Values
    is_area: bool = False


class Drawn(NamedTuple):
    """A line as a template writes it."""

    name: str
    colour: int
    line: str
    area: str


class Tick(NamedTuple):
    """A line across, and what stands at its left."""

    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """All that a template needs."""

    id: str
    title: str
    lines: list[Drawn]
    ticks: list[Tick]
    said: str
    """In words."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw yet."""
        return not any(one.line for one in self.lines)


def chart(chart_id: str, title: str, series: Sequence[Series], write: Write = number, least: float = 1) -> Chart:
    """Return a chart whose scale reaches from 0 to the highest value, or to `least`."""
    known = [value for one in series for value in one.values if value is not None]
    top = _nice(max([least, *known]))
    ticks = [Tick(_y(top * part, top), write(top * part)) for part in (0, 0.5, 1)]
    drawn = [_drawn(one, top) for one in series]
    return Chart(chart_id, title, drawn, ticks, f"{title}, last hour. " + " ".join(_said(one, write) for one in series))


def binned(
    points: Iterable[Point], now: float, value: Callable[[list[Point]], float | None], bins: int = BINS
) -> Values:
    """Return a value for each part of the hour before `now`, from the points in it."""
    found: list[list[Point]] = [[] for _ in range(bins)]
    width = HOUR_SECONDS / bins
    for point in points:
        place = bins - 1 - math.floor((now - point.at) / width)
        if 0 <= place < bins:
            found[place].append(point)
    return tuple(value(some) if some else None for some in found)


def most_waiting(points: list[Point]) -> float:
    """Return the highest number that waited."""
    return max(point.waiting for point in points)


def longest_wait(points: list[Point]) -> float:
    """Return for how many seconds the oldest had waited at most."""
    return max(point.oldest_ms for point in points) / 1000


def mean_running(points: list[Point]) -> float:
    """Return the mean number that ran."""
    return sum(point.running for point in points) / len(points)


def mean_slots(points: list[Point]) -> float:
    """Return the mean number of slots."""
    return sum(point.slots for point in points) / len(points)


def of_span(ask: Callable[[Span], float | None]) -> Callable[[list[Point]], float | None]:
    """Return what asks of all that happened in some points."""
    return lambda points: ask(span(points))


def sparks(area: Values, line: Values) -> tuple[str, str]:
    """Return the paths of a small chart on one scale, in whole numbers, as there may be many; empty: not known."""
    top = max([1.0, *(value for values in (area, line) for value in values if value is not None)])
    step = SPARK_WIDTH / max(1, len(line) - 1)

    def place(at: int, value: float) -> tuple[float, float]:
        return at * step, SPARK_HEIGHT - 1 - (SPARK_HEIGHT - 2) * value / top

    return _paths(area, place, SPARK_HEIGHT, 0)[1], _paths(line, place, SPARK_HEIGHT, 0)[0]


def _drawn(series: Series, top: float) -> Drawn:
    step = (WIDTH - LEFT - RIGHT) / max(1, len(series.values) - 1)
    line, area = _paths(series.values, lambda at, value: (LEFT + at * step, _y(value, top)), HEIGHT - BOTTOM)
    return Drawn(series.name, series.colour, line, area if series.is_area else "")


def _y(value: float, top: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(1.0, value / top), 1)


def _paths(
    values: Values, place: Callable[[int, float], tuple[float, float]], floor: float, digits: int = 1
) -> tuple[str, str]:
    """Return the line through what is known, which breaks where something is missing for long, and the area below."""
    lines, areas = [], []
    for run in _runs(values):
        spots = [place(at, value) for at, value in run]
        if len(spots) == 1:
            spots.append((spots[0][0] + 1, spots[0][1]))  # one alone would not be seen
        text = " ".join(f"{x:.{digits}f},{y:.{digits}f}" for x, y in spots)
        lines.append(f"M{text}")
        areas.append(f"M{spots[0][0]:.1f},{floor} {text} {spots[-1][0]:.1f},{floor}Z")
    return "".join(lines), "".join(areas)


_MOST_MISSING: Final = 2


def _runs(values: Values) -> list[list[tuple[int, float]]]:
    runs: list[list[tuple[int, float]]] = []
    for at, value in enumerate(values):
        if value is None:
            continue
        if runs and at - runs[-1][-1][0] <= _MOST_MISSING:
            runs[-1].append((at, value))
        else:
            runs.append([(at, value)])
    return runs


def _nice(value: float) -> float:
    """Return the next number that is easy to halve: 1, 2, 4, 5 or 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 10) if step * power >= value * 0.999)


def _said(series: Series, write: Write) -> str:
    known = [value for value in series.values if value is not None]
    if not known:
        return f"{series.name}: not known."
    return f"{series.name}: {write(known[-1])} at last, {write(min(known))} at least, {write(max(known))} at most."


def model_charts(points: Sequence[Point], now: float) -> list[Chart]:
    """Return what is drawn of one model."""

    def part(value: Callable[[list[Point]], float | None], bins: int = BINS) -> Values:
        return binned(points, now, value, bins)

    minutes = 60  # a quantile of few is none
    return [
        chart(
            "waiting", "Waiting and running",
            [
                Series("waiting", 2, part(most_waiting), is_area=True), Series("running", 1, part(mean_running)),
                Series("slots", 8, part(mean_slots)),
            ],
        ),
        chart(
            "rate", "Requests a minute",
            [
                Series("answered", 1, part(of_span(lambda it: it.per_minute(it.answered())), minutes), is_area=True),
                Series("refused", 8, part(of_span(lambda it: it.per_minute(_refused(it))), minutes)),
                Series("failed", 5, part(of_span(lambda it: it.per_minute(it.failed())), minutes)),
            ],
        ),
        chart(
            "wait", "Wait for a turn",
            [
                Series("half within", 1, part(of_span(lambda it: it.wait(0.5)), minutes)),
                Series("95 % within", 3, part(of_span(lambda it: it.wait(0.95)), minutes)),
            ],
            seconds, 0.1,
        ),
        chart(
            "first", "Time to first token",
            [
                Series("half within", 1, part(of_span(lambda it: it.first_token(0.5)), minutes)),
                Series("95 % within", 3, part(of_span(lambda it: it.first_token(0.95)), minutes)),
            ],
            seconds, 0.1,
        ),
        chart("oldest", "The oldest waits for", [Series("oldest", 2, part(longest_wait), is_area=True)], seconds, 1),
        chart("held", "Had to wait, a minute, by reason", _by_reason(points, part, minutes)),
    ]  # fmt: skip


def _refused(lately: Span) -> int:
    """Return how many ended otherwise: by a limit of theirs, a fault of theirs, or because their client left."""
    return lately.total() - lately.answered() - lately.failed()


def _by_reason(points: Sequence[Point], part: Callable[..., Values], minutes: int) -> list[Series]:
    reasons = list(span(points).held())[:MOST_REASONS] or ["none"]
    values = {reason: part(_held_for(reason), minutes) for reason in reasons}
    return [Series(waited_for(reason), place, values[reason]) for place, reason in enumerate(reasons, 1)]


def _held_for(reason: str) -> Callable[[list[Point]], float | None]:
    return of_span(lambda it: it.per_minute(it.held().get(reason, 0)))
