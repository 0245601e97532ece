"""What a measure cost: CPU seconds and memory of each process, Redis's commands and bytes, between two moments."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis

_COUNTERS = ("total_net_input_bytes", "total_net_output_bytes", "total_reads_processed", "total_writes_processed")


@dataclass(frozen=True, slots=True)
class Moment:
    """The clocks and counters at one moment."""

    cpu_seconds: dict[str, dict[int, float]]
    """By name and process id: a child that ended in between must not count backwards."""
    commands: dict[str, tuple[int, float]]
    """Calls and seconds of each command, also of those called inside scripts."""
    redis: dict[str, int]
    at: float
    """Of `time.monotonic`."""


class Meter:
    """Reads the clocks of named processes, their children included, and of one Redis; a name may have several."""

    def __init__(self, processes: Mapping[str, int], redis_url: str) -> None:
        self._processes = {name: [psutil.Process(pid)] for name, pid in processes.items()}
        self._alone: set[str] = set()
        self._redis = redis.Redis.from_url(redis_url)
        self._socket = self._redis.connection_pool.connection_kwargs["path"]

    def add(self, name: str, pid: int, *, alone: bool = False) -> None:
        """Watch one more process under this name; `alone`: its children are others' or have names of their own."""
        self._processes.setdefault(name, []).append(psutil.Process(pid))
        if alone:
            self._alone.add(name)

    def remove(self, name: str) -> None:
        """Watch those of this name no longer."""
        self._processes.pop(name, None)

    def pids(self, name: str) -> list[int]:
        """Return the process ids under a name."""
        return [process.pid for process in self._processes[name]]

    def _all(self, name: str) -> Iterator[psutil.Process]:
        for process in self._processes[name]:
            yield process
            if name not in self._alone:
                yield from process.children(recursive=True)

    def read(self) -> Moment:
        """Return the present moment."""
        stats: dict[str, Any] = self._redis.info("commandstats")
        info: dict[str, Any] = self._redis.info("stats")
        return Moment(
            {name: _cpu_seconds(self._all(name)) for name in self._processes},
            {name.removeprefix("cmdstat_"): (row["calls"], row["usec"] / 1e6) for name, row in stats.items()},
            {name: info.get(name, 0) for name in _COUNTERS},
            time.monotonic(),
        )

    def rss_bytes(self) -> dict[str, int]:
        """Return each process's resident memory."""
        return {name: sum(process.memory_info().rss for process in self._all(name)) for name in self._processes}

    def connections(self) -> dict[str, int]:
        """Return how many connections to Redis each process has; empty where `ss` is not installed."""
        try:
            listed = subprocess.run(["ss", "-xH"], check=True, capture_output=True, text=True).stdout
        except (OSError, subprocess.CalledProcessError):
            return {}
        # Of a unix socket only the server's end bears the path; the other end is known by its inode.
        ends = {f"socket:[{line.split()[-1]}]" for line in listed.splitlines() if self._socket in line.split()}
        return {
            name: sum(_ends(process.pid, ends) for process in self._all(name))
            for name in self._processes
            if name != "redis"
        }


def _ends(pid: int, ends: set[str]) -> int:
    found = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found += str(descriptor.readlink()) in ends
    return found


def _cpu_seconds(processes: Iterable[psutil.Process]) -> dict[int, float]:
    seconds = {}
    for part in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = part.cpu_times()
            seconds[part.pid] = times.user + times.system
    return seconds


def between(before: Moment, after: Moment) -> dict[str, Any]:
    """Return what was spent between two moments."""
    commands = {
        name: (calls - before.commands.get(name, (0, 0.0))[0], seconds - before.commands.get(name, (0, 0.0))[1])
        for name, (calls, seconds) in after.commands.items()
    }
    return {
        "window_seconds": after.at - before.at,
        "cpu_seconds": {
            name: sum(spent - before.cpu_seconds.get(name, {}).get(pid, 0.0) for pid, spent in pids.items())
            for name, pids in after.cpu_seconds.items()
        },
        "commands": {name: row for name, row in sorted(commands.items()) if row[0] and name not in ("info",)},
        "redis": {name: after.redis[name] - before.redis[name] for name in _COUNTERS},
    }
