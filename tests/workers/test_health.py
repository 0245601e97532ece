"""Which backend is called: weights, ejection, the one trial call after it, and what that does to the capacity."""

from __future__ import annotations

from collections import Counter

import pytest

from shared.backend_settings import BackendSettings
from workers.health import FAILURES_TO_EJECT, FIRST_EJECTION_SECONDS, MAX_EJECTION_SECONDS, BackendHealth


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def health_of(clock: Clock, *backends: BackendSettings) -> BackendHealth:
    return BackendHealth(backends, clock)


def backend(weight: int = 1, concurrency: int | None = None) -> BackendSettings:
    return BackendSettings(url="http://127.0.0.1:1/v1", weight=weight, concurrency=concurrency)


def call(health: BackendHealth, place: int, *, failed: bool | None) -> None:
    health.ended(place, health.began(place), failed=failed)


def eject(health: BackendHealth, place: int) -> None:
    for _ in range(FAILURES_TO_EJECT):
        call(health, place, failed=True)


def chosen(health: BackendHealth, times: int = 200) -> Counter[int]:
    return Counter(health.choose() for _ in range(times))


def test_calls_are_shared_by_weight(clock: Clock) -> None:
    counts = chosen(health_of(clock, backend(3), backend(1)), 4000)
    assert 2 < counts[0] / counts[1] < 4.5


def test_weight_zero_is_a_reserve(clock: Clock) -> None:
    health = health_of(clock, backend(1), backend(0))
    assert set(chosen(health)) == {0}
    eject(health, 0)
    assert set(chosen(health)) == {1}


def test_a_backend_is_ejected_after_failures_in_a_row(clock: Clock) -> None:
    health = health_of(clock, backend(), backend())
    for _ in range(FAILURES_TO_EJECT - 1):
        call(health, 0, failed=True)
    assert set(chosen(health)) == {0, 1}
    call(health, 0, failed=True)
    assert set(chosen(health)) == {1}


@pytest.mark.parametrize("between", [False, None])
def test_only_a_success_starts_the_count_anew(clock: Clock, between: bool | None) -> None:
    health = health_of(clock, backend(), backend())
    for failed in (*[True] * (FAILURES_TO_EJECT - 1), between, True):
        call(health, 0, failed=failed)
    assert set(chosen(health)) == ({0, 1} if between is False else {1})


def test_after_its_time_one_call_tries_it(clock: Clock) -> None:
    health = health_of(clock, backend(), backend())
    eject(health, 0)
    clock.now += FIRST_EJECTION_SECONDS - 0.1
    assert set(chosen(health)) == {1}
    clock.now += 0.2
    assert chosen(health)[0] == 1  # the trial is out; the others go on with the healthy one
    call(health, 0, failed=False)
    assert set(chosen(health)) == {0, 1}


def test_each_failed_trial_doubles_the_time_up_to_a_limit(clock: Clock) -> None:
    health = health_of(clock, backend(), backend())
    eject(health, 0)
    seconds = FIRST_EJECTION_SECONDS
    for _ in range(8):
        clock.now += seconds + 0.1
        assert chosen(health)[0] == 1
        call(health, 0, failed=True)
        seconds = min(seconds * 2, MAX_EJECTION_SECONDS)
        clock.now += seconds - 0.2
        assert chosen(health)[0] == 0
        clock.now -= seconds - 0.2


def test_a_trial_whose_client_left_says_nothing_and_is_repeated(clock: Clock) -> None:
    health = health_of(clock, backend(), backend())
    eject(health, 0)
    clock.now += FIRST_EJECTION_SECONDS + 0.1
    assert chosen(health)[0] == 1
    call(health, 0, failed=None)
    assert chosen(health)[0] == 1


def test_a_call_that_began_before_the_ejection_does_not_end_the_trial(clock: Clock) -> None:
    health = health_of(clock, backend(), backend())
    old = health.began(0)
    eject(health, 0)
    clock.now += FIRST_EJECTION_SECONDS + 0.1
    assert chosen(health)[0] == 1
    health.ended(0, old, failed=None)  # the old call's client leaves; the trial is still out
    assert chosen(health)[0] == 0


def test_calls_that_fail_together_are_one_ejection(clock: Clock) -> None:
    health = health_of(clock, backend(), backend())
    together = [health.began(0) for _ in range(30)]
    for one in together:
        health.ended(0, one, failed=True)
    clock.now += FIRST_EJECTION_SECONDS + 0.1
    assert chosen(health)[0] == 1


def test_when_all_are_ejected_the_one_that_is_due_first_is_called(clock: Clock) -> None:
    health = health_of(clock, backend(), backend())
    eject(health, 0)
    clock.now += 1
    eject(health, 1)
    assert set(chosen(health)) == {0}


def test_a_retry_goes_to_a_backend_that_was_not_tried(clock: Clock) -> None:
    health = health_of(clock, backend(100), backend(1), backend(1))
    for _ in range(100):
        assert health.choose({0}) in (1, 2)
        assert health.choose({0, 2}) == 1
    assert health.choose({0, 1, 2}) in (0, 1, 2)


def test_a_full_backend_is_passed_over(clock: Clock) -> None:
    health = health_of(clock, backend(100, concurrency=1), backend(1))
    began = health.began(0)
    assert set(chosen(health)) == {1}
    health.ended(0, began, failed=False)
    assert 0 in chosen(health)


def test_capacity_is_what_the_healthy_backends_may_run(clock: Clock) -> None:
    health = health_of(clock, backend(concurrency=4), backend(concurrency=6))
    assert health.capacity(32) == 10
    assert health.capacity(8) == 8
    eject(health, 1)
    assert health.capacity(32) == 4
    clock.now += FIRST_EJECTION_SECONDS + 0.1
    assert health.capacity(32) == 5  # one call tries the other
    assert health_of(clock, backend(concurrency=4), backend()).capacity(32) == 32
    assert health_of(clock, backend(concurrency=4)).capacity(32) == 4


def test_capacity_stays_when_every_backend_is_ejected(clock: Clock) -> None:
    health = health_of(clock, backend(concurrency=4), backend(concurrency=6))
    eject(health, 0)
    eject(health, 1)
    assert health.capacity(32) == 10
