"""How templates write numbers and times."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86_400
NOTHING: Final = "–"


def seconds(value: float | None) -> str:
    """Write a span of time as 85 ms, 3.2 s, 4 min 10 s, 2 h 5 min, 3 d 4 h."""
    if value is None:
        return NOTHING
    if value < 1:
        return f"{value * 1000:.0f} ms" if value else "0 s"
    if value < MINUTE:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    for one, name, part, small in ((MINUTE, "min", 1, "s"), (HOUR, "h", MINUTE, "min"), (DAY, "d", HOUR, "h")):
        if value < one * (60 if one < HOUR else 24) or name == "d":
            whole, rest = divmod(int(value), one)
            return f"{whole} {name}" + (f" {rest // part} {small}" if rest // part else "")
    return NOTHING


def number(value: float | None) -> str:
    """Write a number as 1,234 or 12.5."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:,.1f}"


def moment(value: float | datetime | None) -> str:
    """Write a time, in Unix seconds or as one, as 2026-10-03 14:05:09 UTC."""
    if value is None:
        return NOTHING
    at = value if isinstance(value, datetime) else datetime.fromtimestamp(value, UTC)
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


FILTERS: Final[dict[str, Callable[..., Any]]] = {"seconds": seconds, "number": number, "moment": moment}
