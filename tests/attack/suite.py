"""What every attack shares: bookkeeping, a look at whether others are disturbed, and what an attack may cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import httpx
import psutil

from tests.attack.stack import Stack
from tests.support.chat import CHAT, chat_body

MIB = 1 << 20
CALM_SECONDS = 2.0
"""A good request is answered within, whatever has just been sent."""
GROWN_BYTES = 150 * MIB
"""What APIs and workers may have grown by in all."""
ENDLESS_BYTES = 1 * MIB
ENDLESS_CPU_SECONDS = 0.05
SMALLEST_STEP = 0.011
"""The system counts a process's time in hundredths of a second."""
FAILURES = (AssertionError, OSError, httpx.HTTPError, psutil.Error, ValueError, LookupError)

Checks = Mapping[str, Callable[[], None]]


class Suite:
    """A running stack, and what every attack on it came to."""

    def __init__(self, stack: Stack, *, short: bool) -> None:
        self.stack = stack
        self.most_bytes = (6 if short else 60) * MIB
        self.crowd = 200 if short else 2000
        self.readers = 20 if short else 100
        self.keys = 300 if short else 3000
        self.failures: list[str] = []
        self.rows: list[tuple[str, int, int, float]] = []
        self._size = 0

    def group(self, name: str, checks: Checks) -> None:
        """Run checks one after the other, and then see that nobody else is disturbed."""
        before, began = len(self.failures), time.monotonic()
        for what, check in {**checks, "the stack is undisturbed": self.undisturbed}.items():
            try:
                check()
            except FAILURES as error:
                self.failures.append(f"{name}: {what}: {type(error).__name__} {str(error)[:300]}")
        self.rows.append((name, len(checks) + 1, len(self.failures) - before, time.monotonic() - began))

    def undisturbed(self) -> None:
        """See that a good request is answered soon, by the same processes, which have their usual size."""
        began = time.monotonic()
        with self.stack.client() as client:
            assert client.post(CHAT, json=chat_body("good")).status_code == 200
        assert time.monotonic() - began < CALM_SECONDS
        # Fails for one that has ended.
        memory = sum(one.memory_info().rss for one in (*self.stack.apis, *self.stack.workers))
        self._size = self._size or memory
        assert memory - self._size < GROWN_BYTES, f"grown by {(memory - self._size) / MIB:.0f} MiB"


@contextmanager
def cost_of(process: psutil.Process, *, more_seconds: float = 0) -> Iterator[None]:
    """See that what is done meanwhile costs the process next to nothing: 1 MiB that it keeps, and 50 ms."""
    before, cpu = process.memory_info().rss, _seconds(process)
    yield
    grown, spent = process.memory_info().rss - before, _seconds(process) - cpu
    assert grown < ENDLESS_BYTES, f"{grown / MIB:.1f} MiB"
    assert spent < ENDLESS_CPU_SECONDS + more_seconds + SMALLEST_STEP, f"{spent:.2f} s"


def _seconds(process: psutil.Process) -> float:
    spent = process.cpu_times()
    return float(spent.user + spent.system)
