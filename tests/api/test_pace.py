"""When a waiting request's turn comes (`api/pace.py`)."""

from __future__ import annotations

import pytest

from api.pace import MAX_LEARNERS, Experience, Pace, size_of
from shared.room.admission import Line


def _waits(line: Line, count: int) -> list[float]:
    pace = Pace(line, 0.0)
    return [pace.wait_ms(before, 0.0) for before in range(count)]


def test_turns_come_as_slots_get_free_one_after_another() -> None:
    line = Line(held_ms=1000, places=2, ages_ms=[900, 400])
    assert _waits(line, 5) == [100, 600, 1100, 1600, 2100]


def test_slots_that_were_taken_together_get_free_together() -> None:
    line = Line(held_ms=1000, places=3, ages_ms=[250, 250, 250])
    assert _waits(line, 7) == [750, 750, 750, 1750, 1750, 1750, 2750]


def test_what_runs_for_longer_than_most_ends_soon() -> None:
    assert _waits(Line(1000, 1, [5000]), 2) == [40, 1040]


def test_a_sample_of_very_many_slots_stands_for_all() -> None:
    line = Line(held_ms=1000, places=200, ages_ms=[0, 500])
    pace = Pace(line, 0.0)
    assert [pace.wait_ms(before, 0.0) for before in (0, 99, 100, 200, 399)] == [500, 500, 1000, 1500, 2000]


def test_where_nothing_has_ended_yet_twice_what_has_run_is_a_guess() -> None:
    pace = Pace(Line(0, 1, [4000]), 0.0)
    assert not pace.is_known
    assert pace.wait_ms(0, 0.0) == 4000
    assert Pace(Line(0, 1, [10]), 0.0).wait_ms(0, 0.0) == 990  # at least a second in all


def test_a_pace_that_is_a_moment_old_has_moved_on() -> None:
    pace = Pace(Line(1000, 2, [900, 400]), 10.0)
    assert pace.wait_ms(0, 10.3) == pytest.approx(300)  # the first has got free, and was taken again
    assert pace.wait_ms(1, 10.3) == pytest.approx(800)


def test_who_waits_longer_than_was_said_teaches_the_next_of_its_kind() -> None:
    experience = Experience()
    for _ in range(40):
        experience.learn("default", "a", size_of(10), 1000, 2200)
    assert experience.expected_ms("default", "a", 12, 1000) == pytest.approx(2200, rel=0.1)
    assert experience.expected_ms("default", "b", 12, 1000) == 1000
    assert experience.expected_ms("priority", "a", 12, 1000) == 1000


def test_longer_lines_are_judged_by_shorter_ones_until_their_own_are_known() -> None:
    experience = Experience()
    for _ in range(40):
        experience.learn("default", "a", size_of(2), 1000, 3000)
    assert experience.expected_ms("default", "a", 100, 1000) == pytest.approx(3000, rel=0.1)
    for _ in range(40):
        experience.learn("default", "a", size_of(100), 1000, 1000)
    assert experience.expected_ms("default", "a", 100, 1000) == pytest.approx(1000, rel=0.1)
    assert experience.expected_ms("default", "a", 2, 1000) == pytest.approx(3000, rel=0.1)


def test_one_wait_does_not_turn_everything_over() -> None:
    experience = Experience()
    experience.learn("default", "a", size_of(1), 1000, 3000)
    assert experience.expected_ms("default", "a", 1, 1000) == pytest.approx(2333, abs=1)
    assert experience.expected_ms("default", "a", 30, 1000) == 1000


def test_only_so_many_tenants_are_remembered() -> None:
    experience = Experience()
    for number in range(MAX_LEARNERS + 1):
        experience.learn("default", f"t{number}", 0, 1000, 3000)
    assert experience.expected_ms("default", "t0", 0, 1000) == 1000
    assert experience.expected_ms("default", "t1", 0, 1000) > 2000
