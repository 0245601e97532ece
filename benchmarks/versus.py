"""Two trees side by side: both gateways are up, each measurement is made at one and at once at the other, in turns.

A shared machine's speed changes within seconds, so that only neighbours can be compared: what is told is the median of
the neighbours' ratios. Both are started anew for each lap, in the other order, since a process keeps its luck.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, BenchmarkError
from benchmarks.report import Table
from benchmarks.rows import LOADS
from benchmarks.runner import Row

LAPS = 2
_PROCESSES = ("api", "worker", "redis")


class Tree:
    """One tree's gateway under measurement."""

    def __init__(self, root: Path, process: subprocess.Popen[str], log: Path) -> None:
        self.root = root
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
            raise BenchmarkError(f"{self.root}: errors under {load}: {row['errors']}")
        return row

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"{self.root}: ended; its log:\n{self._log.read_text()[-2000:]}")
        return line


@contextmanager
def tree(root: Path, folder: Path) -> Iterator[Tree]:
    """Start a tree's gateway with the tree's own Python."""
    log = folder / "log"
    with log.open("w") as errors:
        command = [root / ".venv/bin/python", ROOT / "benchmarks/rows.py", folder / "run"]
        process = subprocess.Popen(
            command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            yield Tree(root, process, log)
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
    return told


def versus(other: Path, loads: Sequence[str], rounds: int) -> dict[str, Any]:
    """Measure the other tree (before) and this one (now), print a table, and return all figures."""
    pairs: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {load: [] for load in loads}
    for lap in range(LAPS):
        with ExitStack() as stack:
            roots = [other, ROOT] if lap % 2 == 0 else [ROOT, other]
            folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in roots]
            trees = [stack.enter_context(tree(root, folder)) for root, folder in zip(roots, folders, strict=True)]
            for one in trees:
                one.ready()
            for number in range(rounds):
                for load in loads:
                    turn = trees if number % 2 == 0 else trees[::-1]
                    rows = {one.root: figures(one.measure(load)) for one in turn}
                    pairs[load].append((rows[other], rows[ROOT]))
                    print(".", end="", file=sys.stderr, flush=True)
    table = Table(
        f"Before and now, {LAPS * rounds} pairs of neighbours each",
        ["load", "figure", "before", "now", "ratio", "quarter", "three quarters"],
        note="ratio: the median of each pair's, and between which two figures the middle half of them lies.",
    )
    for load, known in pairs.items():
        for name in known[0][0]:
            table.add(load, name, *compared([(before[name], now[name]) for before, now in known]))
    table.print()
    return {load: [list(pair) for pair in known] for load, known in pairs.items()}


def compared(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, str, str, str]:
    """Return the medians before and now, the median ratio, and the quartiles of the ratios."""
    ratios = [now / before for before, now in pairs if before]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    medians = statistics.median(before for before, _ in pairs), statistics.median(now for _, now in pairs)
    return *medians, f"{middle:.3f}", f"{low:.3f}", f"{high:.3f}"


def known_loads(names: str | None) -> list[str]:
    """Return the loads of a comma-separated list, by default all; raises BenchmarkError for an unknown one."""
    chosen = names.split(",") if names else list(LOADS)
    if unknown := [name for name in chosen if name not in LOADS]:
        raise BenchmarkError(f"--only: no load {', '.join(unknown)}; beside --against there are {', '.join(LOADS)}")
    return chosen
