"""Hours of usage in; sums by token, group, model, lane, kind, day or hour out."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from shared.usage.counters import Counters, Key
from shared.usage.ledger import Used, moment_of

DIMENSIONS: Final = (*Key._fields, "day", "hour")


def part_of(name: str, key: Key, hour: int) -> str:
    """Return what a dimension says of one count."""
    if name == "day":
        return f"{moment_of(hour):%Y-%m-%d}"
    if name == "hour":
        return f"{moment_of(hour):%Y-%m-%dT%H:00Z}"
    return str(getattr(key, name))


def summed(
    used: Iterable[Used], by: Sequence[str], keep: Callable[[Key], bool] = lambda _: True
) -> dict[tuple[str, ...], Counters]:
    """Return the sums by some dimensions, in the order of their names; `keep` says what counts."""
    out: dict[tuple[str, ...], Counters] = {}
    for hour, sums in used:
        for key, counts in sums.items():
            if keep(key):
                name = tuple(part_of(one, key, hour) for one in by)
                known = out.get(name)
                out[name] = counts if known is None else known.plus(counts)
    return dict(sorted(out.items()))


def csv_text(by: Sequence[str], rows: Mapping[tuple[str, ...], Counters]) -> str:
    """Return sums by some dimensions as CSV, with a line of names first."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*by, *Counters._fields])
    writer.writerows([*name, *counts] for name, counts in rows.items())
    return out.getvalue()
