"""When batch work may begin: read, asked across midnight and changes of the clock, and kept by takes."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from shared.batch_hours import batch_hours
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import open_bench, settings_of

VIENNA = ZoneInfo("Europe/Vienna")


def at(text: str) -> float:
    """Return a moment in UTC as Unix seconds."""
    return datetime.fromisoformat(text + "+00:00").timestamp()


@pytest.mark.parametrize(
    ("text", "moments"),
    [
        ("22:00-06:00 Europe/Vienna", {"2026-11-26T20:59:59": False, "2026-11-26T21:00": True, "2026-11-27T04:59": True,
                                       "2026-11-27T05:00": False}),
        # The same hours in summer are an hour earlier in UTC.
        ("22:00-06:00 Europe/Vienna", {"2026-07-01T19:59": False, "2026-07-01T20:00": True, "2026-07-02T04:00": False}),
        # Clocks were set on from 2 to 3 o'clock: there was no 02:30.
        ("02:30-03:30 Europe/Vienna", {"2026-03-29T00:59": False, "2026-03-29T01:00": True, "2026-03-29T01:30": False}),
        # Clocks were set back from 3 to 2 o'clock: 02:30 came twice.
        ("02:00-03:00 Europe/Vienna", {"2026-10-24T23:59": False, "2026-10-25T00:30": True, "2026-10-25T01:30": True,
                                       "2026-10-25T02:00": False}),
        ("09:00 - 17:30 America/New_York", {"2026-11-26T13:59": False, "2026-11-26T14:00": True,
                                            "2026-11-26T22:30": False}),
        ("18:00-24:00 UTC", {"2026-11-26T17:59": False, "2026-11-26T23:59": True, "2026-11-27T00:00": False}),
        ("00:00-06:00 UTC", {"2026-11-26T23:59": False, "2026-11-27T00:00": True, "2026-11-27T06:00": False}),
    ],
)  # fmt: skip
def test_hours_are_those_on_the_wall_of_their_zone(text: str, moments: dict[str, bool]) -> None:
    hours = batch_hours(text)
    assert {moment: hours.are_on(at(moment)) for moment in moments} == moments


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("22:00-06:00", "two times of the day and a zone"),
        ("22-6 UTC", "two times of the day and a zone"),
        ("22:00-25:00 UTC", "two times of the day and a zone"),
        ("", "two times of the day and a zone"),
        ("06:00-06:00 UTC", "two different times"),
        ("00:00-24:00 UTC", "two different times"),
        ("22:00-06:00 Europe/Wien", r"no time zone that this machine knows \(Europe/Wien\)"),
        ("22:00-06:00 Europe", "no time zone"),
        ("22:00-06:00 ../../etc/passwd", "no time zone"),
        ("22:00-06:00 /etc/localtime", "no time zone"),
    ],
)
def test_what_are_no_hours_is_refused_with_what_to_write(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        settings_of({"m": {"batch_hours": text}}, "redis://127.0.0.1:1")


@asynchronous
async def test_outside_its_hours_batch_work_waits_and_other_work_does_not(room_redis: RedisServer) -> None:
    here = datetime.now(VIENNA).hour
    on, off = (f"{(here + shift) % 24:02d}:00-{(here + shift + 12) % 24:02d}:00 Europe/Vienna" for shift in (-6, 6))
    models: dict[str, dict[str, Any]] = {
        "m": {"batch_hours": off, "concurrency": 8}, "n": {"batch_hours": on, "concurrency": 8},
    }  # fmt: skip
    async with open_bench(room_redis.url, models) as bench:
        for model in models:
            for lane in ("batch", "default", "flex"):
                await bench.admit(lane=lane, model=model)
        taken = await bench.leases.take("m", free=8, mine=0, surplus=True)
        assert (len(taken.jobs), taken.more) == (2, False)
        assert (await bench.upkeep.depth())["m"].waiting["batch"] == 1
        assert len(await bench.take(8, model="n")) == 3
