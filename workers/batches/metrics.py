"""What is counted of batches (lines, tokens, what was left of windows), and how those stand that are carried now."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shared.batches.record import BatchRecord, Status, TokenUsage
from shared.batches.record import Counts as Done
from shared.catalogue import Catalogue
from shared.metrics import names
from shared.metrics.counts import Counts
from shared.metrics.states import State
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
        self._moved: dict[str, tuple[Status, int, float]] = {}
        """Of each batch that is carried: its status, how many lines had ended, and since when that is so."""

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

    def standing(self, carried: Iterable[tuple[BatchRecord, Done]], open_batches: int | None) -> Iterator[State]:
        """Yield how the batches of this process stand, and how many are open in the store, where that is known."""
        now, monotonic, known = time.time(), time.monotonic(), self._moved
        self._moved = {}
        by_model: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
        for record, done in carried:
            ended = done.completed + done.failed
            moved = (record.status, ended, monotonic)
            before = known.get(record.id)
            self._moved[record.id] = moved = before if before is not None and before[:2] == moved[:2] else moved
            model, _ = self._of(record)
            by_model[model].append((done.total - ended, monotonic - moved[2], record.expires_at - now))
        for model, rows in by_model.items():
            left, idle, window = zip(*rows, strict=True)
            yield State(names.BATCHES_RUNNING, (model,), len(rows))
            yield State(names.BATCH_LINES_LEFT, (model,), sum(left))
            yield State(names.BATCH_IDLE, (model,), max(idle))
            yield State(names.BATCH_WINDOW, (model,), min(window))
        if open_batches is not None:
            yield State(names.BATCHES_OPEN, (), open_batches)

    def _of(self, record: BatchRecord) -> tuple[str, str]:
        """Return the model's own name, empty where the configuration has it no more, and the kind."""
        kind = kind_of(record.endpoint)
        return self._catalogue.names.get(record.model or "", ""), kind.name if kind is not None else ""
