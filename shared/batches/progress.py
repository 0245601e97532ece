"""How far a batch is, as its feeder tells Redis and everybody reads it: nothing that is missed if it is lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shared.batches.record import Counts


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest counts, and when the last line should have ended at the rate so far (Unix seconds; None: unknown)."""

    counts: Counts
    finish_at: int | None = None

    @classmethod
    def from_fields(cls, told: Mapping[str, str]) -> Progress | None:
        """Read what a feeder told (`Lines.say`); None where nothing was."""
        try:
            counts = Counts(int(told["total"]), int(told["completed"]), int(told["failed"]))
            left = told.get("seconds_left")
            return cls(counts, int(told["at"]) + int(left) if left is not None else None)
        except (KeyError, ValueError):
            return None
