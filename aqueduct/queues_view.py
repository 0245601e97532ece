"""What `aqueduct queues` shows: figures of models and batches in, text or JSON out."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aqueduct.capacity_view import capacity_lines
from aqueduct.table import Column, table, terminal_width
from shared.logging import escaped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.batches.open import OpenBatch
    from shared.debugging import Switched

_NUMBERS = ("PRIORITY", "DEFAULT", "FLEX", "BATCH", "OLDEST", "RUNNING", "WORKERS", "TICKETS", "ENDS/MIN")
_COLUMNS = (*map(Column, ("MODEL", "STATE")), *(Column(heading, is_number=True) for heading in _NUMBERS))
_BATCH_COLUMNS = (
    *map(Column, ("BATCH", "TOKEN", "MODEL", "STATUS")),
    *(Column(heading, is_number=True) for heading in ("DONE", "FAILED", "TOTAL", "ENDS IN")),
)


@dataclass(frozen=True)
class View:
    """What is shown at a moment; no batches: there is no store here, or it cannot be read."""

    rows: list[dict[str, Any]]
    batches: list[OpenBatch] | None
    trouble: str | None
    """Why batches cannot be told."""
    debug: Sequence[Switched] = ()
    """Tokens whose prompts and answers are logged."""


def shown(view: View, *, as_json: bool) -> str:
    """Return the tables, or one line of JSON."""
    if as_json:
        batches = None if view.batches is None else [batch.as_json() for batch in view.batches]
        return json.dumps({"models": view.rows, "batches": batches, "batches_error": view.trouble,
                           "debug": [one.as_json() for one in view.debug]})  # fmt: skip
    parts = [table(_COLUMNS, [_cells(row) for row in view.rows], terminal_width())]
    if lines := [line for row in view.rows if "capacity" in row for line in capacity_lines(row)]:
        parts.append("\n".join(lines))
    if view.batches:
        parts.append(table(_BATCH_COLUMNS, [_batch_cells(batch) for batch in view.batches], terminal_width()))
    if view.trouble is not None:
        parts.append(f"Batches cannot be told: {escaped(view.trouble)}")
    parts += [_debug_line(one) for one in view.debug]
    return "\n\n".join(parts)


def _debug_line(one: Switched) -> str:
    left = _span(one.until_ms / 1000 - time.time())
    return (
        f"Prompts and answers of {escaped(one.token)} are logged for {left} more, by {escaped(one.by) or 'somebody'}."
    )


def _batch_cells(batch: OpenBatch) -> tuple[str, ...]:
    ends_in = "-" if batch.finish_at is None else _span(batch.finish_at - time.time())
    counts = (str(number) for number in (batch.completed, batch.failed, batch.total))
    return (batch.id, batch.token, batch.model or "-", batch.status, *counts, ends_in)


def _span(seconds: float) -> str:
    """Return about how long it is, in the largest unit that is not too coarse."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    waits = row["waiting"]
    batch = f"{waits['batch']} until {row['batch_begins_at']}" if "batch_begins_at" in row else str(waits["batch"])
    return (
        row["model"], _state(row), *(str(waits[lane]) for lane in ("priority", "default", "flex")), batch,
        f"{row['oldest_wait_seconds']:g} s" if sum(waits.values()) else "-",
        f"{row['running']}/{row['concurrency']}", str(row["live_workers"]), str(row["tickets"]),
        "-" if row["ends_per_minute"] is None else f"{row['ends_per_minute']:g}",
    )  # fmt: skip


def _state(row: dict[str, Any]) -> str:
    held = row["backends_held"]
    return f"{row['state']}, backend {', '.join(map(str, held))} held" if held else str(row["state"])


def away(reason: str, *, as_json: bool) -> str:
    """Return what stands in their place while Redis cannot be asked."""
    if as_json:
        return json.dumps({"error": reason})
    return f"Redis cannot be asked at the moment ({escaped(reason)}); trying again. Ctrl-C ends."
