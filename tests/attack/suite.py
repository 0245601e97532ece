"""What every attack shares: bookkeeping, a look at whether others are disturbed, and what an attack may cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import psutil

from tests.attack.stack import Stack
from tests.support.chat import CHAT, chat_body

MIB = 1 << 20
CALM_SECONDS = 5.0
"""A good request is answered within, whatever has just been sent, on a machine that has other work too."""
GROWN_BYTES = 300 * MIB
"""What APIs and workers may have grown by in all."""
ENDLESS_BYTES = 1 * MIB
ENDLESS_CPU_SECONDS = 0.05
SMALLEST_STEP = 0.011
"""The system counts a process's time in hundredths of a second."""
FAILURES = (AssertionError, OSError, httpx.HTTPError, psutil.Error, ValueError, LookupError)

Check = Callable[[], None]


@dataclass(frozen=True)
class Group:
    """Attacks of one kind, by name; as many run at once as do not disturb each other's measures."""

    name: str
    checks: Mapping[str, Check]
    at_once: int = 1


class Suite:
    """A running stack, and what every attack on it came to."""

    def __init__(self, stack: Stack, *, short: bool) -> None:
        self.stack = stack
        self.short = short
        self.most_bytes = (6 if short else 60) * MIB
        self.crowd = 200 if short else 2000
        self.readers = 10 if short else 40
        self.keys = 300 if short else 3000
        self.failures: list[str] = []
        self.rows: list[tuple[str, int, int, float]] = []
        self._size = 0

    def run(self, group: Group) -> None:
        """Run a group's checks, and then see that nobody else is disturbed."""
        before, began = len(self.failures), time.monotonic()
        with ThreadPoolExecutor(group.at_once) as pool:
            told = [*pool.map(self._told, group.checks.items())]
        told.append(self._told(("the stack is undisturbed", self.undisturbed)))
        self.failures += [f"{group.name}: {one}" for one in told if one]
        self.rows.append((group.name, len(told), len(self.failures) - before, time.monotonic() - began))

    @staticmethod
    def _told(named: tuple[str, Check]) -> str:
        """Run a check; return what went wrong, if anything did."""
        name, check = named
        try:
            check()
        except FAILURES as error:
            return f"{name}: {type(error).__name__} {str(error)[:300]}"
        return ""

    def undisturbed(self) -> None:
        """See that a good request is answered soon, by the same processes, which have their usual size."""
        began = time.monotonic()
        with self.stack.client() as client:
            answer = client.post(CHAT, json=chat_body("good"))
            assert answer.status_code == 200, answer.text
        took = time.monotonic() - began
        assert took < CALM_SECONDS, f"took {took:.1f} s"
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
