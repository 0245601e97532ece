"""Runs a measure at every target in turn, several rounds, and gives medians with their costs."""

from __future__ import annotations

import math
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.meters import Moment, between
from benchmarks.processes import BenchmarkError
from benchmarks.report import errors_text
from benchmarks.stack import Stack, Target

Row = dict[str, Any]


class Runner:
    """Measures; `rounds` interleaved rounds, `seconds` each window."""

    def __init__(self, stack: Stack, *, rounds: int, seconds: float, quick: bool) -> None:
        self.stack = stack
        self.rounds = rounds
        self.seconds = seconds
        self.quick = quick

    def once(
        self, target: Target, operation: str, *, sample: Callable[[], Mapping[str, Any]] | None = None, **arguments: Any
    ) -> Row:
        """Run one operation at one target; `sample` is called at the end of the window."""
        moments: list[Moment] = []
        extra: dict[str, Any] = {}

        def at_window() -> None:
            if moments and sample is not None:
                extra.update(sample())
            moments.append(self.stack.meter.read())

        arguments["model"] = target.models[arguments["model"]]
        command = {"op": operation, "target": target.address(), **arguments}
        result = self.stack.load.run(command, at_window)
        if result.get("failed"):
            raise BenchmarkError(f"{target.name} cannot be reached: {errors_text(result['errors'])}")
        nothing: dict[str, Any] = {"cpu_seconds": {}, "commands": {}, "redis": {}}
        spent = between(moments[0], moments[1]) if len(moments) == 2 else nothing
        return {**result, **extra, **spent, "target": target.name, "processes": target.processes}

    def interleaved(
        self, operation: str, *, rounds: int | None = None, targets: Sequence[Target] | None = None, **arguments: Any
    ) -> dict[str, Row]:
        """Return, by target's name, the medians of all rounds."""
        gathered: dict[str, list[Row]] = {}
        for _ in range(rounds or self.rounds):
            for target in targets or self.stack.targets:
                gathered.setdefault(target.name, []).append(self.once(target, operation, **arguments))
                print(".", end="", file=sys.stderr, flush=True)
        return {name: median(rows) for name, rows in gathered.items()}


def median(rows: Sequence[Row]) -> Row:
    """Return the medians of all numbers in rows of the same shape; errors are added up."""
    first = rows[0]
    result: Row = {}
    for key in {key: None for row in rows for key in row}:
        values = [row[key] for row in rows if key in row]
        if key == "errors":
            total: Counter[str] = Counter()
            for value in values:
                total.update(value)
            result[key] = dict(total)
        elif isinstance(values[0], dict):
            result[key] = median(values)
        elif isinstance(values[0], int | float) and not isinstance(values[0], bool):
            known = [value for value in values if not math.isnan(value)]
            result[key] = statistics.median(known) if known else math.nan
        elif isinstance(values[0], tuple | list) and values[0] and isinstance(values[0][0], int | float):
            result[key] = [statistics.median(column) for column in zip(*values, strict=False)]
        else:
            result[key] = first.get(key, values[0])
    return result


def cpu_each(row: Row, units: float) -> dict[str, float]:
    """Return µs of CPU a unit (a request, a chunk), by process and as `total` over those that serve the target."""
    if not units:
        return {}
    each = {name: seconds / units * 1e6 for name, seconds in row["cpu_seconds"].items()}
    each["total"] = sum(each.get(name, 0.0) for name in row["processes"])
    return each
