"""Estimates are corrected by what requests of the same kind have cost."""

from __future__ import annotations

import pytest

from shared.estimates import LEAST_FACTOR, MOST_FACTOR, MOST_KEYS, Estimates, corrected


def test_nothing_known_changes_nothing() -> None:
    assert Estimates().factor("a") == 1


@pytest.mark.parametrize("real", [10, 1000, 4000])
def test_the_factor_comes_to_what_is_real(real: float) -> None:
    estimates = Estimates()
    for _ in range(30):
        estimates.learn("a", 1000, real)
    assert estimates.factor("a") == pytest.approx(max(LEAST_FACTOR, real / 1000), rel=0.01)
    assert estimates.factor("b") == 1


def test_what_is_long_ago_counts_less() -> None:
    estimates = Estimates()
    for real in [10] * 100 + [1000] * 30:
        estimates.learn("a", 1000, real)
    assert estimates.factor("a") > 0.9


@pytest.mark.parametrize(("estimated", "real"), [(10**18, 10), (1, 10**9)], ids=["absurdly high", "absurdly low"])
def test_one_that_is_far_off_rules_no_longer_than_others(estimated: float, real: float) -> None:
    estimates = Estimates()
    estimates.learn("a", estimated, real)
    for _ in range(20):
        estimates.learn("a", 1000, 1000)
    assert estimates.factor("a") == pytest.approx(1, rel=0.1)


def test_the_factor_and_the_keys_are_bounded() -> None:
    estimates = Estimates()
    estimates.learn("low", 10**9, 0)
    estimates.learn("high", 0, 10**9)
    assert (estimates.factor("low"), estimates.factor("high")) == (LEAST_FACTOR, MOST_FACTOR)
    for number in range(MOST_KEYS):
        estimates.learn(number, 1, 2)
    assert estimates.factor("low") == estimates.factor("high") == 1
    assert estimates.factor(MOST_KEYS - 1) == 2


def test_what_is_charged_is_whole_at_least_one_and_bounded() -> None:
    charged = [corrected(*given) for given in ((10.25, 1 / 3), (0.0, 1.0), (1e300, 64.0))]
    assert charged == [3, 1, 10**12]
    assert all(type(cost) is int for cost in charged)
