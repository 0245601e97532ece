"""Hours of the day in which batch work begins: `22:00-06:00 Europe/Vienna` in; whether they are now out.

They are hours on the wall there: where clocks are set on or back, a night is shorter or longer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_FORM: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9]) ?- ?(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00) +(\S+)")


@dataclass(frozen=True, slots=True)
class BatchHours:
    """From when until when, and where."""

    begin: time
    end: time
    zone: ZoneInfo

    def are_on(self, now: float) -> bool:
        """Say whether they are at this moment (Unix seconds)."""
        here = datetime.fromtimestamp(now, self.zone).time()
        if self.begin < self.end:
            return self.begin <= here < self.end
        return here >= self.begin or here < self.end


def batch_hours(text: str) -> BatchHours:
    """Read what an operator wrote; raises ValueError, which says what to write."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ValueError("must be two times of the day and a zone, as 22:00-06:00 Europe/Vienna")
    begin = time(int(found[1]), int(found[2]))
    end = time(int(found[3] or 0), int(found[4] or 0))
    if begin == end:
        raise ValueError("must be two different times; without the setting batch work begins at any")
    try:
        zone = ZoneInfo(found[5])
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"names no time zone that this machine knows ({found[5]}): write one as Europe/Vienna or UTC; where none "
            "is known, install the package tzdata"
        ) from None
    return BatchHours(begin, end, zone)
