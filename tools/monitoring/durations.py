"""Times in queries, which a test makes shorter: `<5m>` stands for a duration, `{60}` for a number of seconds."""

from __future__ import annotations

import re
from typing import Final

_DURATION: Final = re.compile(r"<(\d+)(s|m|h)>")
_SECONDS: Final = re.compile(r"\{(\d+)\}")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600}


def rendered(text: str, scale: float = 1.0) -> str:
    """Return a query with its times, each so many times as long; a duration is a second at least."""

    def duration(found: re.Match[str]) -> str:
        return shortened(found[1] + found[2], scale)

    return _DURATION.sub(duration, _SECONDS.sub(lambda found: f"{int(found[1]) * scale:g}", text))


def shortened(duration: str, scale: float) -> str:
    """Return a duration (`5m`) so many times as long, a second at least; as it was written where nothing changes."""
    if scale == 1 or duration == "0s":
        return duration
    return f"{max(1, round(int(duration[:-1]) * _UNITS[duration[-1]] * scale))}s"
