"""Results into a file that may be there in part: what it holds stays, what it misses is fetched."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from aqueduct.batches.gateway import Gateway
from aqueduct.errors import CommandError

_PIECE = 1024 * 1024


def download(gateway: Gateway, batch_id: str, out: Path | None) -> int:
    """Add the results that are missing to `out`, or print all; returns how many the file holds."""
    if out is None:
        for part in gateway.results(batch_id, 0):
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        return 0
    try:
        with out.open("r+b" if out.exists() else "w+b") as file:
            lines, size = _whole_lines(file.fileno())
            file.truncate(size)  # a line that was cut is fetched again
            file.seek(size)
            for part in gateway.results(batch_id, lines):
                file.write(part)
                lines += part.count(b"\n")
    except OSError as error:
        raise CommandError(f"{out} cannot be written: {error.strerror or error}") from None
    return lines


def _whole_lines(handle: int) -> tuple[int, int]:
    """Return how many lines a file holds that have an end, and where the last one ends."""
    lines = size = at = 0
    while piece := os.pread(handle, _PIECE, at):
        lines += piece.count(b"\n")
        if (last := piece.rfind(b"\n")) >= 0:
            size = at + last + 1
        at += len(piece)
    return lines, size
