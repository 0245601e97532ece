"""Waiting for a batch: a bar on a terminal, a line now and then elsewhere, until it has ended."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from aqueduct.batches.gateway import Gateway, Json

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
LOOK_SECONDS = 0.5
LONGEST_LOOK_SECONDS = 5.0
SPEAK_SECONDS = 10.0
_BAR = 24


def wait_for_end(gateway: Gateway, batch: Json, out: TextIO = sys.stderr) -> Json:
    """Return the batch as it ended."""
    pause, spoken_at, started = LOOK_SECONDS, 0.0, time.monotonic()
    began_with: int | None = None
    while batch["status"] not in ENDED:
        time.sleep(pause)
        pause = min(pause * 1.2, LONGEST_LOOK_SECONDS)
        batch, finish_at = gateway.show(batch["id"])
        done = _done(batch)
        if began_with is None:
            began_with, started = done, time.monotonic()
        rate = (done - began_with) / max(time.monotonic() - started, 0.001)
        if out.isatty():
            print(f"\r\x1b[K{bar(batch, rate, finish_at)}", end="", file=out, flush=True)
        elif time.monotonic() - spoken_at >= SPEAK_SECONDS:
            spoken_at = time.monotonic()
            print(bar(batch, rate, finish_at), file=out, flush=True)
    if out.isatty():
        print("\r\x1b[K", end="", file=out)
    return batch


def _done(batch: Json) -> int:
    counts = batch["request_counts"]
    return int(counts["completed"]) + int(counts["failed"])


def bar(batch: Json, rate: float, finish_at: int | None) -> str:
    """Return one line: how far, how fast, what failed, and until when."""
    counts, done = batch["request_counts"], _done(batch)
    total = int(counts["total"])
    filled = _BAR * done // total if total else 0
    parts = [f"[{'#' * filled}{'.' * (_BAR - filled)}]", f"{done}/{total or '?'}", str(batch["status"])]
    if rate > 0:
        parts.append(f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
    if counts["failed"]:
        parts.append(f"{counts['failed']} failed")
    if finish_at is not None:
        parts.append(f"ends about {time.strftime('%H:%M:%S', time.localtime(finish_at))}")
    return "  ".join(parts)
