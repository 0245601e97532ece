"""When a stream that waits is told where it stands, and when its status is better kept open."""

from __future__ import annotations

import pytest

from api.standing import END_SECONDS, Waiting
from shared.jobs import JobSpec, new_id
from shared.room.admission import Admission
from shared.token_settings import TokenSettings

JOB = Admission(
    id=new_id(), model="m", token=TokenSettings(name="a", sha256="0" * 64), lane="default", owner="api", body=b"{}",
    spec=JobSpec(stream=True), cost=1,
)  # fmt: skip
LIMIT = 10.0


@pytest.mark.parametrize(
    ("now", "unsure"),
    [(1.0, False), (LIMIT - END_SECONDS - 0.1, False), (LIMIT - END_SECONDS, True), (LIMIT + 1, True)],
)
def test_shortly_before_its_longest_wait_a_request_is_told_nothing_more(now: float, unsure: bool) -> None:
    waiting = Waiting(JOB, 3, 0.0, LIMIT, lambda _: None)
    waiting.note(3, 60_000, 0.0)
    assert waiting.is_unsure(now) is unsure


def test_who_should_have_been_served_by_now_is_unsure() -> None:
    waiting = Waiting(JOB, 3, 0.0, LIMIT, lambda _: None)
    assert waiting.is_unsure(0.0), "nothing is known yet"
    waiting.note(3, 1000, 0.0)
    assert [waiting.is_unsure(now) for now in (0.5, 1.5)] == [False, True]
