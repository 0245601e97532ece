"""What is counted of batches: lines that begin to wait and that end, their tokens, and what was left of windows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from shared.batches.record import BatchRecord, Status, TokenUsage
from shared.catalogue import Catalogue
from shared.metrics import names
from shared.metrics.counts import Counts
from workers.batches.source import kind_of

LANE = "batch"


class LineEnd(NamedTuple):
    """How a line ended that is written."""

    ok: bool
    usage: TokenUsage | None


class BatchMetrics:
    """Counts of the batches of a process."""

    def __init__(self, counts: Counts, catalogue: Catalogue) -> None:
        self._counts = counts
        self._catalogue = catalogue

    def began(self, record: BatchRecord) -> None:
        """Take a batch whose input is good."""
        model, kind = self._of(record)
        self._counts.add(names.BATCH_LINES_BEGUN, model, (kind,), record.counts.total)

    def written(self, record: BatchRecord, ends: Iterable[LineEnd]) -> None:
        """Take lines whose ends are in the store."""
        model, kind = self._of(record)
        for ok, usage in ends:
            self._counts.add(names.BATCH_LINES, model, (kind, "completed" if ok else "failed"))
            if usage is not None:
                for label, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
                    self._counts.observations(names.REQUEST_TOKENS, model, (kind, LANE, label)).observe(tokens)

    def ended(self, record: BatchRecord, now: float) -> None:
        """Take a batch that has ended at this moment (Unix seconds)."""
        model, _ = self._of(record)
        self._counts.add(names.BATCHES, model, (record.status.value,))
        if record.status in (Status.COMPLETED, Status.EXPIRED):
            self._counts.observations(names.BATCH_MARGIN, model).observe(record.expires_at - now)

    def _of(self, record: BatchRecord) -> tuple[str, str]:
        """Return the model's own name, empty where the configuration has it no more, and the kind."""
        kind = kind_of(record.endpoint)
        return self._catalogue.names.get(record.model or "", ""), kind.name if kind is not None else ""
