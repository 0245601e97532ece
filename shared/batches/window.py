"""Completion windows: `24h`, `90m`, `7d` in; seconds out."""

from __future__ import annotations

import re
from typing import Final

LONGEST_SECONDS: Final = 7 * 86_400
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_WINDOW: Final = re.compile(r"([1-9][0-9]{0,6})([smhd])")


def seconds_of(text: str) -> int | None:
    """Return the seconds of a span such as `24h`, or None for what is none."""
    found = _WINDOW.fullmatch(text)
    return int(found[1]) * _UNITS[found[2]] if found else None


def window_problem(text: str, shortest: str) -> str | None:
    """Return what is wrong with a completion window, or None; `shortest` is the smallest allowed one."""
    seconds, least = seconds_of(text), seconds_of(shortest) or 1
    if seconds is None or (text.endswith("s") and least >= 60) or not least <= seconds <= LONGEST_SECONDS:
        return f"Send 24h, or another span from {shortest} to 7d as a number with m, h or d, such as 90m"
    return None
