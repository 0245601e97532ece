"""Lines of the last hour."""

from __future__ import annotations

import re

import pytest

from api.ui.charts import Series, binned, chart, mean_running, model_charts, most_waiting, sparks
from shared.metrics.history import Point

NOW = 1_700_000_000.0


def point(minutes_ago: float, waiting: int, running: int = 0, **new: int) -> Point:
    return Point(NOW - minutes_ago * 60, waiting, 0, running, 4, 15, new)


def test_a_bin_has_what_lies_in_it_and_what_is_too_old_or_ahead_in_none() -> None:
    points = [point(61, 9), point(59.9, 1), point(59.6, 3), point(0.1, 2, 2), point(0.2, 1, 4), point(-5, 7)]
    waited = binned(points, NOW, most_waiting, 60)
    assert (waited[0], waited[-1], set(waited[1:-1])) == (3, 2, {None})
    assert binned(points, NOW, mean_running, 60)[-1] == 3


def test_the_line_breaks_where_something_is_missing_for_long() -> None:
    drawn = chart("id", "Title", [Series("one", 1, (1, None, 2, None, None, None, 3), is_area=True)]).lines[0]
    assert drawn.line.count("M") == 2 and drawn.area.count("Z") == 2
    places = [tuple(map(float, found)) for found in re.findall(r"([\d.]+),([\d.]+)", drawn.line)]
    assert all(38 <= x <= 360 and 8 <= y <= 100 for x, y in places)


@pytest.mark.parametrize(("value", "top"), [(0, "1"), (1, "1"), (3, "4"), (4.2, "5"), (23, "40"), (70_000, "100,000")])
def test_the_scale_ends_at_a_number_that_is_easy_to_halve(value: float, top: str) -> None:
    assert chart("id", "Title", [Series("one", 1, (value,))]).ticks[-1].text == top


def test_a_chart_is_told_in_words() -> None:
    said = chart("id", "Waiting", [Series("one", 1, (1, 5, 2)), Series("two", 2, (None, None, None))]).said
    assert said == "Waiting, last hour. one: 2 at last, 1 at least, 5 at most. two: not known."


def test_of_nothing_there_is_nothing_to_draw() -> None:
    assert all(one.is_empty for one in model_charts([], NOW))
    assert sparks((None, None), (None, None)) == ("", "")


def test_reasons_and_rates_have_their_lines() -> None:
    charts = {one.id: one for one in model_charts([point(1, 2, 1, q200=5, hroom=2, htenant=9)], NOW)}
    assert [line.name for line in charts["held"].lines] == [
        "its token or group may have no more running", "all slots were busy",
    ]  # fmt: skip
    assert "answered: 20 at last" in charts["rate"].said and "failed: 0 at last" in charts["rate"].said
