"""Spans of time as people write them: 90s, 15m, 2h, 1d."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SPAN: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?([smhd])")


def span_seconds(text: str) -> float | None:
    """Return how many seconds they are; None for what is no span."""
    found = _SPAN.fullmatch(text.strip())
    return float(found[1]) * _UNITS[found[2]] if found else None
