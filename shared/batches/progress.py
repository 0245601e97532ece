"""How far a batch is, as its feeder tells Redis and everybody reads it: nothing that is missed if it is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from shared.batches.record import Counts


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest counts, and when the last line should have ended at the rate so far (Unix seconds; None: unknown)."""

    counts: Counts
    finish_at: int | None = None
    reasons: Mapping[str, int] | None = None
    """How many lines failed with which code; None where an older version tells."""

    def fields(self) -> dict[str, int | str]:
        """Return what a feeder tells."""
        counts = self.counts
        told = {"total": counts.total, "completed": counts.completed, "failed": counts.failed}
        return {**told, "finish_at": self.finish_at or 0, "reasons": json.dumps(self.reasons or {})}

    @classmethod
    def from_fields(cls, told: Mapping[str, str]) -> Progress | None:
        """Read what `fields` gave; None where nothing was told."""
        try:
            counts = Counts(int(told["total"]), int(told["completed"]), int(told["failed"]))
            reasons = json.loads(told["reasons"]) if "reasons" in told else None
            return cls(counts, int(told.get("finish_at", "0")) or None, reasons)
        except (KeyError, ValueError):
            return None
