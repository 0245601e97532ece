"""Plain-text tables: `Table(title, columns)`, `add(…)`, `print()`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def number(value: Any) -> str:
    """Return a figure with three or so significant digits; what is unknown is a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if not isinstance(value, int | float):
        return str(value)
    size = abs(value)
    if size >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


class Table:
    """Rows under a title, right-aligned save the first column."""

    def __init__(self, title: str, columns: Sequence[str], *, note: str = "") -> None:
        self.title = title
        self.note = note
        self._rows: list[list[str]] = [list(columns)]

    def add(self, *values: Any) -> None:
        """Add a row."""
        self._rows.append([number(value) for value in values])

    def print(self) -> None:
        """Write it to standard output."""
        widths = [max(len(row[column]) for row in self._rows) for column in range(len(self._rows[0]))]
        print(f"\n{self.title}")
        for index, row in enumerate(self._rows):
            cells = [
                row[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
            print("  ".join(cells).rstrip())
            if not index:
                print("  ".join("-" * width for width in widths))
        if self.note:
            print(self.note)
        print(flush=True)


def errors_text(errors: dict[str, int]) -> str:
    """Return errors in one cell."""
    return "; ".join(f"{count}x {text[:120]}" for text, count in errors.items()) or "0"
