"""Tables for people: columns and rows of text in, lines out that fit the width of a terminal.

Where a row is too wide, long text is cut first; what is still too wide is told in several tables below each other, each
with the first column.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shared.logging import escaped

GAP = "  "
CUT = "…"
SHORTEST_CUT = 12
"""Text is not cut below this width: what is left of a name must still tell it from others."""


@dataclass(frozen=True)
class Column:
    """A column's heading; numbers stand on the right and are never cut."""

    heading: str
    is_number: bool = False


def terminal_width() -> int | None:
    """Return the width of the terminal that standard output goes to; None where it goes elsewhere."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, ValueError):
        return None


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Return headings and rows as lines, at most `width` wide where that can be done."""
    # A name in a cell may come from Redis, where others write: it must not tell the terminal what to do.
    lines = [[column.heading for column in columns], *([escaped(cell) for cell in row] for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    if width is not None:
        widths = _narrowed(columns, widths, width)
    parts = _parts(widths, width)
    return "\n\n".join("\n".join(_line(columns, widths, line, part) for line in lines) for part in parts)


def _narrowed(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """Take from the widest text again and again, until the row fits or no text can be cut further."""
    narrowed = list(widths)
    while _total(narrowed) > width:
        cuttable = [at for at, column in enumerate(columns) if not column.is_number and narrowed[at] > SHORTEST_CUT]
        if not cuttable:
            break
        narrowed[max(cuttable, key=narrowed.__getitem__)] -= 1
    return narrowed


def _parts(widths: Sequence[int], width: int | None) -> Iterator[list[int]]:
    """Yield the places of the columns that stand side by side; the first column begins each part."""
    part = [0]
    for place in range(1, len(widths)):
        if width is not None and len(part) > 1 and _total([widths[at] for at in (*part, place)]) > width:
            yield part
            part = [0]
        part.append(place)
    yield part


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _line(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str], part: Sequence[int]) -> str:
    shown = []
    for at in part:
        cell = cells[at] if len(cells[at]) <= widths[at] else cells[at][: widths[at] - 1] + CUT
        shown.append(cell.rjust(widths[at]) if columns[at].is_number else cell.ljust(widths[at]))
    return GAP.join(shown).rstrip()
