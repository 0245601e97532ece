"""Where the CPU time of a process goes: py-spy's samples as a list of functions by self time."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from benchmarks.report import Table


def py_spy() -> str | None:
    """Return the program, or None where it is not installed."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def profiled(work: Callable[[], object], processes: Mapping[str, int], folder: Path, *, seconds: float) -> None:
    """Sample the processes while `work` runs in this thread, and print the functions that cost most."""
    program = py_spy()
    if program is None:
        print("py-spy is not installed: pip install py-spy")
        return
    spies = []
    for name, pid in processes.items():
        output = folder / f"profile-{name}.txt"
        command = [program, "record", "--pid", str(pid), "--duration", str(round(seconds)), "--rate", "200"]
        command += ["--gil", "--function"]  # who holds the interpreter works; a waiting thread does not
        command += ["--format", "raw", "--output", str(output)]
        spy = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        spies.append((name, output, spy))
    before = {name: thread_seconds(pid) for name, pid in processes.items()}
    waiting = [threading.Thread(target=spy.wait) for _, _, spy in spies]
    for thread in waiting:
        thread.start()
    work()
    for thread in waiting:
        thread.join()
    for name, pid in processes.items():
        print_threads(name, before[name], thread_seconds(pid))
    for name, output, spy in spies:
        if spy.returncode or not output.exists():
            print(f"py-spy does not work on {name}: {spy.stderr.read().decode() if spy.stderr else ''}")
        else:
            show(name, output)


def thread_seconds(pid: int) -> dict[str, float]:
    """Return the CPU seconds of each thread, in the order of their start; the first one is the main thread."""
    seconds = {}
    for number, entry in enumerate(psutil.Process(pid).threads()):
        seconds[f"thread {number}" if number else "main thread"] = entry.user_time + entry.system_time
    return seconds


def print_threads(name: str, before: Mapping[str, float], after: Mapping[str, float]) -> None:
    """Print what each thread spent; threads that spent next to nothing are left out."""
    table = Table(f"{name}: CPU seconds by thread", ["thread", "s"])
    for thread, seconds in after.items():
        if (spent := seconds - before.get(thread, 0.0)) >= 0.05:
            table.add(thread, spent)
    table.print()


def show(name: str, samples: Path, *, rows: int = 25) -> None:
    """Print the functions with the most self time, and those with the most time below them."""
    own: Counter[str] = Counter()
    below: Counter[str] = Counter()
    for line in samples.read_text(errors="replace").splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        own[frames[-1]] += int(count)
        for frame in set(frames):
            below[frame] += int(count)
    total = sum(own.values()) or 1
    for title, counts in (("self", own), ("with callees", below)):
        table = Table(f"{name}: {title} time, {total} samples", ["function", "%"])
        for frame, samples_in in counts.most_common(rows if title == "self" else 3 * rows):
            table.add(frame[-110:], samples_in / total * 100)
        table.print()
