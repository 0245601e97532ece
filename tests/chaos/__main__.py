"""`python -m tests.chaos`: every fault under load and a table, then batches, then the scripts. A breach: 1.

`soak`, `cancels`, `batches`, `asleep`, `usage` and `scripts` are long runs of one kind.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.asleep import run_asleep
from tests.chaos.batches import SHORT_HARMS, run_batches
from tests.chaos.cancels import run_cancels
from tests.chaos.faults import FAULTS, Fault, wait_for_load
from tests.chaos.load import Load
from tests.chaos.scripts import run_scripts
from tests.chaos.soak import run_soak
from tests.chaos.stand import Stand
from tests.chaos.table import Row, judge, markdown
from tests.chaos.usage import run_usage

FULL_REQUESTS = 500
SHORT_REQUESTS = 150
FULL_STEPS = 200_000
SHORT_STEPS = 9_000
FULL_LINES = 2_000
SHORT_LINES = 200


def main() -> int:
    """Run what was asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help=f"{SHORT_REQUESTS} requests a fault, each harm once")
    parser.add_argument("--requests", type=int, help=f"accepted requests a fault at least (default: {FULL_REQUESTS})")
    parser.add_argument("--fault", action="append", help="only faults whose name holds this; may be repeated")
    parser.add_argument("--logs", type=Path, help="keep the processes' logs in this folder")
    runs = parser.add_subparsers(dest="run")
    soak = runs.add_parser("soak", help="many small requests, some of them left, and a Redis outage: memory must stay")
    soak.add_argument("--requests", type=int, default=100_000, dest="count")
    cancels = runs.add_parser("cancels", help="clients that leave at random moments: answers must not be mixed up")
    cancels.add_argument("--count", type=int, default=10_000)
    scripts = runs.add_parser("scripts", help="random steps of the scripts: Redis must stay as their model says")
    scripts.add_argument("--steps", type=int, default=FULL_STEPS)
    scripts.add_argument("--seed", type=int, help="of the first run (default: another each time)")
    batches = runs.add_parser("batches", help="batches while all that carries them is killed: one record a line")
    batches.add_argument("--lines", type=int, default=FULL_LINES)
    asleep = runs.add_parser("asleep", help="a backend that is away under load, and comes back")
    asleep.add_argument("--requests", type=int, default=500, dest="count")
    asleep.add_argument("--seconds", type=float, default=90)
    usage = runs.add_parser("usage", help="cancels, a killed worker and API process: usage must be the backend's")
    usage.add_argument("--count", type=int, default=5_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aqueduct-chaos-") as made:
        folder = arguments.logs or Path(made)
        if arguments.run == "soak":
            return _report(run_soak(folder, arguments.count))
        if arguments.run == "cancels":
            return _report(run_cancels(folder, arguments.count))
        if arguments.run == "asleep":
            return _report(run_asleep(folder, arguments.count, arguments.seconds))
        if arguments.run == "usage":
            return _report(run_usage(folder, arguments.count))
        if arguments.run == "scripts":
            return _report(run_scripts(folder, arguments.steps, arguments.seed))
        if arguments.run == "batches":
            return _report(run_batches(folder, arguments.lines))
        faults = run_faults(arguments, folder)
        if arguments.fault:
            return faults
        broken = run_batches(folder, SHORT_LINES, SHORT_HARMS) if arguments.short else run_batches(folder, FULL_LINES)
        faults |= _report(broken)
        return faults | _report(run_scripts(folder, SHORT_STEPS if arguments.short else FULL_STEPS))


def _report(problems: list[str]) -> int:
    for problem in problems:
        print(f"BROKEN: {problem}")
    return 1 if problems else 0


def run_faults(arguments: argparse.Namespace, folder: Path) -> int:
    """Run the faults one after the other and print their table."""
    wanted = arguments.requests or (SHORT_REQUESTS if arguments.short else FULL_REQUESTS)
    chosen = [f for f in FAULTS if not arguments.fault or any(part in f.name for part in arguments.fault)]
    print(f"{len(chosen)} faults, at least {wanted} accepted requests each, on {os.cpu_count()} cores", flush=True)
    rows: list[Row] = []
    with Stands(folder) as stands:
        for fault in chosen:
            began = time.monotonic()
            row = run_fault(fault, stands.for_fault(fault), wanted, 1 if arguments.short else fault.times)
            rows.append(row)
            stands.broken = bool(row.problems)
            print(
                f"{fault.name}: {'BROKEN' if row.problems else 'held'} ({time.monotonic() - began:.0f} s)", flush=True
            )
            for problem in row.problems:
                print(f"  {problem}", flush=True)
    print("\n" + markdown(rows))
    held = sum(not row.problems for row in rows)
    print(f"\n{held} passed, {len(rows) - held} failed")
    return 1 if any(row.problems for row in rows) else 0


class Stands:
    """Hands one stand from fault to fault while it holds: what a fault left behind must not harm the next one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stand: Stand | None = None
        self._settings: object = None
        self._made = 0
        self.broken = False

    def __enter__(self) -> Stands:
        """Nothing runs yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop what runs."""
        if self._stand is not None:
            self._stand.stop()

    def for_fault(self, fault: Fault) -> Stand:
        """Return a running stand with the fault's settings."""
        settings = (fault.settings, fault.model_settings, fault.replicated)
        if self._stand is not None and settings == self._settings and not self.broken:
            self._stand.forget()
            return self._stand
        if self._stand is not None:
            self._stand.stop()
        self._made += 1
        self._stand = Stand(
            self._folder / f"stand-{self._made}", fault.settings, fault.model_settings, replicated=fault.replicated
        )
        self._settings, self.broken = settings, False
        self._stand.start()
        return self._stand


def run_fault(fault: Fault, stand: Stand, wanted: int, times: int) -> Row:
    """Harm a stand under load and judge what came of it."""
    load = Load(stand.system.urls, stand.system.token)
    with load.in_background():
        for _ in range(times):
            wait_for_load(load)
            fault.harm(stand, load)
        wait_for_load(load, max(30, wanted - load.accepted))
    return judge(fault, stand, load, wanted)


if __name__ == "__main__":
    sys.exit(main())
