"""What the points of a model's last hour say."""

from __future__ import annotations

import pytest

from shared.metrics import names
from shared.metrics.counts import Counts
from shared.metrics.history import (
    Point,
    Summary,
    calls_of,
    is_failed_call,
    is_failure,
    news,
    quantile,
    read_point,
    span,
    summary,
)

DEFAULT, PRIORITY = ("chat.completions", "default"), ("completions", "priority")
HOST = "10.0.0.1:8000"


def counted(counts: Counts) -> Summary:
    fields = counts.take()["m"]
    return summary(fields) | calls_of(fields)


def test_kinds_and_lanes_are_added_up() -> None:
    counts = Counts()
    for labels in (DEFAULT, PRIORITY):
        counts.add(names.REQUESTS, "m", (*labels, "200", ""), 2)
        counts.add(names.REQUESTS, "m", (*labels, "503", "no_worker"))
        counts.add(names.HELD, "m", (*labels, "room"), 3)
        counts.observations(names.WAIT_SECONDS, "m", labels).observe(0.03)
        counts.observations(names.FIRST_TOKEN_SECONDS, "m", labels).observe(500)
        counts.add(names.RETRIES, "m", labels)
    counts.observations(names.BACKEND_SECONDS, "m", ("chat.completions", HOST, "200")).observe(0.03)
    counts.observations(names.BACKEND_SECONDS, "m", ("completions", HOST, "503")).observe(0.01)
    found = span([Point(15, 0, 0, 0, 4, 15, counted(counts))])
    assert found.requests() == {"200": 4, "503 no_worker": 2}
    assert (found.total(), found.failed(), found.held()) == (6, 2, {"room": 6})
    assert found.wait(0.5) == pytest.approx(0.03) and found.first_token(0.5) == 120
    calls = found.calls(HOST)
    assert (calls.total, calls.failed, calls.codes) == (2, 1, {"200": 1, "503": 1})
    assert calls.p95 == pytest.approx(0.038)
    assert found.calls("10.0.0.2:8000").total == 0 and found.calls("10.0.0.2:8000").p50 is None


def test_news_are_what_grew_and_a_number_that_fell_has_begun_anew() -> None:
    assert news({"a": 5, "b": 2, "c": 1}, {"a": 3, "b": 2, "c": 9}) == {"a": 2, "c": 1}


def test_a_point_is_read_as_it_was_written_and_what_is_none_is_left_out() -> None:
    point = Point(1700000000.5, 3, 120, 2, 4, 15.2, {"q200": 7})
    assert read_point(point.written()) == point
    for odd in (b"", b"[]", b"{}", b"null", b'{"t": "x"}', b'{"t":1,"d":1,"w":1,"o":1,"r":1,"s":1,"n":[]}'):
        assert read_point(odd) is None


def test_a_rate_counts_the_time_that_its_points_cover() -> None:
    found = span([Point(15, 0, 0, 0, 4, 15, {"q200": 10}), Point(75, 0, 0, 0, 4, 60, {"q200": 15})])
    assert found.per_minute(found.total()) == pytest.approx(20)
    assert span([]).per_minute(0) is None


def test_a_quantile_lies_in_its_bucket() -> None:
    bounds = (1.0, 2.0, 4.0)
    assert quantile([0, 0, 0, 0], bounds, 0.5) is None
    assert quantile([10, 0, 0, 0], bounds, 0.5) == pytest.approx(0.5)
    assert quantile([1, 0, 1, 0], bounds, 0.95) == pytest.approx(3.8)
    assert quantile([0, 0, 0, 5], bounds, 0.5) == 4.0


def test_what_counts_as_a_failure() -> None:
    assert not any(map(is_failure, ("200", "400 invalid_value", "401", "429 rate_limit_exceeded", "499")))
    assert all(map(is_failure, ("500", "503 no_worker", "429 queue_full")))
    assert not any(map(is_failed_call, ("200", "400", "404")))
    assert all(map(is_failed_call, ("0", "408", "429", "500", "529")))
