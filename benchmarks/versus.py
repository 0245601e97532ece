"""Two gateways side by side: both are up, each measurement is made at one and at once at the other, in turns.

They are of two trees, or of this one with other settings.

A shared machine's speed changes within seconds, so that only neighbours can be compared: what is told is the median of
the neighbours' ratios. Both are started anew for each lap, in the other order, since a process keeps its luck.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.processes import ROOT, BenchmarkError
from benchmarks.report import Table
from benchmarks.rows import LOADS, ON_DEMAND
from benchmarks.runner import Row

LAPS = 2
_PROCESSES = ("api", "worker", "redis")


class Side(NamedTuple):
    """One of the two that are compared."""

    name: str
    root: Path = ROOT
    """Of its tree."""
    gateway: Mapping[str, Any] = {}
    """Arguments of its `Stack.start_gateway`, as JSON can say them."""


class Gateway:
    """One side's gateway under measurement."""

    def __init__(self, side: Side, process: subprocess.Popen[str], log: Path) -> None:
        self.side = side
        self._process = process
        self._log = log

    def ready(self) -> None:
        """Wait for the gateway."""
        self._read()

    def measure(self, load: str) -> Row:
        """Return the figures of one measurement."""
        assert self._process.stdin is not None
        self._process.stdin.write(load + "\n")
        self._process.stdin.flush()
        row: Row = json.loads(self._read())
        if row.get("errors"):
            raise BenchmarkError(f"{self.side.name}: errors under {load}: {row['errors']}")
        return row

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"{self.side.name}: ended; its log:\n{self._log.read_text()[-2000:]}")
        return line


@contextmanager
def started(side: Side, folder: Path) -> Iterator[Gateway]:
    """Start a side's gateway with its tree's own Python."""
    log = folder / "log"
    with log.open("w") as errors:
        python = side.root / ".venv/bin/python"
        command: list[str | Path] = [python, ROOT / "benchmarks/rows.py", folder / "run", json.dumps(side.gateway)]
        process = subprocess.Popen(
            command, cwd=side.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            yield Gateway(side, process, log)
        finally:
            process.communicate(timeout=60)  # closes its input, which ends it


def figures(row: Row) -> dict[str, float]:
    """Return what is compared, of one measurement."""
    units = row.get("chunks") or row["requests"]
    each = {f"{name} CPU us": row["cpu_seconds"][name] / units * 1e6 for name in _PROCESSES}
    told = {**each, "CPU us": sum(each.values()), "Redis calls": row["commands"].get("evalsha", [0])[0] / units}
    for name in ("requests_per_second", "chunks_per_second"):
        if name in row:
            told[name.replace("_per_second", "/s")] = row[name]
    for name in ("latency_ms", "first_ms", "stall_ms"):
        if name in row:
            told[name.replace("_ms", " p50 ms")] = row[name]["p50"]
    if "first_ms" in row:
        told["last first ms"] = row["first_ms"]["max"]
    if "gap_ms" in row:
        told["others' gap p99 ms"] = row["gap_ms"]["p99"]
    return told


def versus(other: Path, loads: Sequence[str], rounds: int) -> dict[str, Any]:
    """Measure the other tree (before) and this one (now), print a table, and return all figures."""
    return side_by_side(Side("before", other), Side("now"), loads, rounds)


def side_by_side(first: Side, second: Side, loads: Sequence[str], rounds: int) -> dict[str, Any]:
    """Measure two sides by pairs of neighbours, print a table, and return all figures."""
    pairs: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {load: [] for load in loads}
    for lap in range(LAPS):
        with ExitStack() as stack:
            sides = [first, second] if lap % 2 == 0 else [second, first]
            folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in sides]
            up = [stack.enter_context(started(side, folder)) for side, folder in zip(sides, folders, strict=True)]
            for one in up:
                one.ready()
            for number in range(rounds):
                for load in loads:
                    turn = up if number % 2 == 0 else up[::-1]
                    rows = {one.side.name: figures(one.measure(load)) for one in turn}
                    pairs[load].append((rows[first.name], rows[second.name]))
                    print(".", end="", file=sys.stderr, flush=True)
    table = Table(
        f"{first.name} and {second.name}, {LAPS * rounds} pairs of neighbours each",
        ["load", "figure", first.name, second.name, "ratio", "quarter", "three quarters"],
        note="ratio: the median of each pair's, and between which two figures the middle half of them lies.",
    )
    for load, known in pairs.items():
        for name in known[0][0]:
            table.add(load, name, *compared([(one[name], other[name]) for one, other in known]))
    table.print()
    return {load: [list(pair) for pair in known] for load, known in pairs.items()}


def compared(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, str, str, str]:
    """Return the medians of both sides, the median ratio, and the quartiles of the ratios."""
    ratios = [now / before for before, now in pairs if before]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    medians = statistics.median(before for before, _ in pairs), statistics.median(now for _, now in pairs)
    return *medians, f"{middle:.3f}", f"{low:.3f}", f"{high:.3f}"


def known_loads(names: str | None) -> list[str]:
    """Return the loads of a comma-separated list, by default all; raises BenchmarkError for an unknown one."""
    chosen = names.split(",") if names else [name for name in LOADS if name not in ON_DEMAND]
    if unknown := [name for name in chosen if name not in LOADS]:
        raise BenchmarkError(f"--only: no load {', '.join(unknown)}; beside --against there are {', '.join(LOADS)}")
    return chosen
