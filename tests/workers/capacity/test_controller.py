"""The limit that is found for a backend, on a simulated clock: many seeds, five capacity curves, loads that differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared.concurrency import Auto
from tests.workers.capacity.curve import Curve, Load, found
from workers.capacity.controller import Controller, Reason
from workers.capacity.measure import Counts

SEEDS = range(6)


def many(_: float) -> int:
    return 400


def steady(knee: int) -> Callable[[float], float]:
    return lambda _: knee


def check_found(knee: Callable[[float], float], load: Load, end: int, seconds: int, **more: float) -> None:
    """Check the last seconds of many cold starts against the best fixed number: the knee itself.

    Throughput holds for each; a time to first token differs by chance from run to run, so its mean is judged.
    """
    best = int(knee(end))
    fixed = Curve(steady(best), load, 99, **more).run(1500, best)  # type: ignore[arg-type]
    runs = [found(Curve(knee, load, seed, **more), end)[0] for seed in SEEDS]  # type: ignore[arg-type]
    for run in runs:
        assert run.tokens(end - seconds, end) >= 0.95 * fixed.tokens(60, 1500), run.limits
    if load.streams:
        times = [run.first_token(end - seconds, end) for run in runs]
        assert sum(times) / len(times) <= 1.2 * fixed.first_token(60, 1500), [run.limits for run in runs]


@pytest.mark.parametrize("streams", [True, False], ids=["streams", "whole answers"])
@pytest.mark.parametrize("knee", [2, 8, 32, 128])
def test_a_knee_is_found_within_a_minute(knee: int, streams: bool) -> None:
    check_found(steady(knee), Load(many, streams=streams), 120, 60)


@pytest.mark.parametrize(("first", "then"), [(32, 128), (96, 12)])
def test_a_knee_that_moves_is_followed_within_a_minute(first: int, then: int) -> None:
    check_found(lambda now: first if now < 70 else then, Load(many), 160, 30)


@pytest.mark.parametrize("more", [{"falls": 0.1}, {"noise": 0.2}], ids=["falls", "noise"])
def test_a_backend_that_falls_past_its_knee_or_is_uneven_is_found_too(more: dict[str, float]) -> None:
    check_found(steady(32), Load(many), 100, 40, **more)


def test_long_answers_are_no_hindrance() -> None:
    check_found(steady(32), Load(many, tokens=300), 100, 40)


def test_a_limit_does_not_grow_unused_nor_shrink_in_idle_hours() -> None:
    clients = [400]
    curve = Curve(steady(32), Load(lambda _: clients[0]), 1)
    controller = Controller(Auto(1, 256))
    curve.run(60, controller)
    before = controller.limit
    clients[0] = 3
    curve.run(300, controller)
    assert abs(controller.limit - before) <= 0.15 * before
    clients[0] = 0
    curve.run(300, controller)
    assert abs(controller.limit - before) <= 0.15 * before


def test_few_clients_never_make_it_large() -> None:
    run, controller = found(Curve(steady(64), Load(lambda _: 6), 1), 120)
    assert max(run.limits) <= 16 and controller.limit <= 12, run.limits


def test_a_backend_that_refuses_is_given_less_at_once_and_not_more_for_a_while() -> None:
    run, controller = found(Curve(steady(500), Load(many), 1, refuses_from=48), 120)
    assert Reason.REFUSED in run.reasons
    assert 40 <= controller.limit <= 53
    assert sum(limit > 48 for limit in run.limits[30:]) <= 20, run.limits


def test_requests_that_wait_inside_the_backend_lower_it_to_what_runs() -> None:
    run, _ = found(Curve(steady(500), Load(many), 1, seats=24), 120)
    assert Reason.WAITING in run.reasons
    assert all(limit <= 28 for limit in run.limits[60:]), run.limits
    assert run.tokens(60, 120) >= 0.95 * Curve(steady(500), Load(many), 99, seats=24).run(120, 24).tokens(60, 120)


@pytest.mark.parametrize("lie", [lambda running: running, lambda _: 1.0], ids=["all wait", "always one"])
def test_a_backend_that_lies_of_what_waits_costs_little(lie: Callable[[float], float]) -> None:
    curve, controller = Curve(steady(32), Load(many), 1), Controller(Auto(1, 256))
    tokens = 0.0
    for second in range(180):
        run = curve.run(1, Lied(controller, lie))
        tokens += run.throughput[0] if second >= 120 else 0
    fixed = Curve(steady(32), Load(many), 99).run(120, 32)
    assert tokens / 60 >= 0.8 * fixed.tokens(60, 120)


class Lied(Controller):
    """A controller that is told what is not so."""

    def __init__(self, real: Controller, lie: Callable[[float], float]) -> None:
        self._real, self._lie = real, lie
        self.limit = real.limit

    def tick(self, counts: Counts, waiting: float | None = None) -> Reason | None:
        """Hear a lie."""
        return self._real.tick(counts, self._lie(counts.in_flight))


def test_it_stays_within_its_range_and_another_range_holds_at_once() -> None:
    controller = Controller(Auto(3, 20))
    run = Curve(steady(64), Load(many), 1).run(60, controller)
    assert min(run.limits) >= 3 and max(run.limits) == 20
    controller.allow(Auto(1, 5))
    assert controller.limit == 5


def test_what_was_found_is_where_the_next_begins() -> None:
    assert Controller(Auto(1, 256), 40).limit == 40
    assert Controller(Auto(1, 16), 40).limit == 16


def test_what_reports_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="no counts"):
        Counts.of([1, -2])
    with pytest.raises(ValueError, match="no counts"):
        Counts.of({"seconds": 1})
    assert Counts.of(Counts(seconds=2, chunks=3).row()).chunks == 3
