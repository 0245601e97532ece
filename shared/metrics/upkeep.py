"""What the recovery clock did, as counts of the process that ran it."""

from __future__ import annotations

from shared.metrics import names
from shared.metrics.counts import Counts
from shared.room.scripts import Swept


def count_sweep(counts: Counts, swept: Swept) -> None:
    """Count what a sweep did; each of them is told to one process only."""
    if swept.reclaimed:
        counts.add(names.RECLAIMS, number=swept.reclaimed)
    if swept.expired:
        counts.add(names.EXPIRED, number=swept.expired)
