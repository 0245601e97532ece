"""Kinds of outcome, each of which keeps its own: a flood of one cannot push out the others."""

from __future__ import annotations

from typing import Final

GOOD: Final = "2"
REFUSED: Final = "4"
"""4xx, and clients that left."""
FAILED: Final = "5"
"""5xx, and streams that broke."""
UNENDED: Final = "0"
"""Of runs alone: it was stopped, and the job went on elsewhere or was cancelled."""

OF_REQUESTS: Final = (GOOD, REFUSED, FAILED)
OF_RUNS: Final = (GOOD, REFUSED, FAILED, UNENDED)

REQUESTS: Final = "request"
RUNS: Final = "run"

KEPT_MS: Final = 3_600_000
"""Nothing is kept for longer than an hour."""


def outcome_of(status: int, code: str | None) -> str:
    """Return the kind of outcome of what ended with this HTTP status and error code."""
    if status == 200 and code is None:
        return GOOD
    return REFUSED if 400 <= status < 500 or status == 0 else FAILED
