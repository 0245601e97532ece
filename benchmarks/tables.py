"""What the scenarios' tables have in common: ratios to direct and each peer, CPU by process, Redis by command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.report import Table, errors_text, number
from benchmarks.runner import Row, Runner, cpu_each

Rows = dict[str, Row]

_PARTS = ("api", "worker", "redis", "flower", "up")
_OURS = ("backend", "load")


def ratio(rows: Rows, name: str, value: Callable[[Row], float | None], row: Row) -> float | None:
    """Return a row's figure over that of another target's row, if that is there."""
    base = value(rows[name]) if name in rows else None
    mine = value(row)
    return mine / base if base and mine is not None else None


class Comparison:
    """A table with a row a target, and a second one with what a unit of work cost each process."""

    def __init__(self, run: Runner, title: str, columns: list[str], *, rate: str, units: str, note: str = "") -> None:
        """`rate` and `units` are keys of rows: what is compared, and what costs are divided by."""
        self._rate = rate
        self._units = units
        self._peers = [target.name for target in run.stack.targets if target.name not in ("direct", "aqueduct")]
        unit = units.removesuffix("s")
        heads = [f"of {name}" for name in ("direct", *self._peers)]
        self._table = Table(title, ["target", *columns, *heads, f"CPU us/{unit}", "errors"], note=note)
        self._costs = Table(
            f"CPU us a {unit} by process; how busy the two that measure were, of a core",
            ["at", "total", *_PARTS, *self._peers, *_OURS, "backend busy", "load busy"],
            note="total: API, workers and Redis, or the peer. Flower, and `up` itself, are apart.",
        )

    def add(self, name: str, rows: Rows, row: Row, *values: Any) -> None:
        """Add a target's row: its values, its ratios, its costs."""
        each = cpu_each(row, row.get(self._units, 0))
        ratios = [ratio(rows, other, lambda one: one.get(self._rate), row) for other in ("direct", *self._peers)]
        total = each.get("total") if row["processes"] else None
        self._table.add(name, *values, *ratios, total, errors_text(row["errors"]))
        self._costs.add(
            name, total, *(each.get(part) for part in (*_PARTS, *self._peers, *_OURS)),
            *(busy(row, part) for part in _OURS),
        )  # fmt: skip

    def print(self) -> None:
        """Write both."""
        self._table.print()
        self._costs.print()


def busy(row: Row, process: str) -> str:
    """Return how much of a core a process used while it was measured."""
    seconds = row.get("window_seconds")
    spent = row["cpu_seconds"].get(process)
    return number(None) if not seconds or spent is None else f"{spent / seconds:.0%}"


def print_redis(row: Row, units: float, unit: str) -> None:
    """Print Redis's commands, those inside scripts included, and its reads and bytes, for each unit of work."""
    if not units:
        return
    table = Table(f"Redis for each {unit}", ["command", "calls", "Redis us"])
    for name, (calls, seconds) in sorted(row["commands"].items(), key=lambda item: -item[1][1]):
        if calls / units >= 0.005:
            table.add(name, calls / units, seconds / units * 1e6)
    for name, value in row["redis"].items():
        table.add(name, value / units, None)
    table.print()
