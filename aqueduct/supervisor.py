"""Child processes that are started again when they end: `Child`, for `aqueduct up`.

In: a command, its environment, a name. Out: what it says under that name (its log it writes itself, see
`aqueduct/own_log.py`), and a restart with growing pauses, until `terminate` or `kill`. All of it happens on the event
loop of the main thread, to which the children's lives are tied.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from aqueduct.parenthood import die_with_parent

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 10.0
STEADY_AFTER_SECONDS = 30.0
"""A child that lived this long starts with the first pause again."""
HOPELESS_AFTER = 3
"""Ends in a row, before the whole was ever ready, after which a child is given up."""
USAGE_ERROR = 2
"""The exit status of a child that refuses its configuration: starting it again changes nothing."""

Say = Callable[[str, str], None]


class Pause:
    """The growing pause between restarts."""

    def __init__(self) -> None:
        self._seconds = FIRST_PAUSE_SECONDS

    def after(self, lived_seconds: float) -> float:
        """Return how long to wait now, for a child that lived this long."""
        if lived_seconds >= STEADY_AFTER_SECONDS:
            self._seconds = FIRST_PAUSE_SECONDS
        now, self._seconds = self._seconds, min(self._seconds * 2, LONGEST_PAUSE_SECONDS)
        return now


class Child:
    """One supervised process."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        say: Say,
        *,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self._command = list(command)
        self.environment = dict(environment)
        """From the next start on."""
        self._say = say
        self._pass_fds = tuple(pass_fds)
        self._process: asyncio.subprocess.Process | None = None
        self._ending = asyncio.Event()
        self.settled = False
        """Set once the whole was ready: from then on it is never given up."""
        self.tail: Sequence[str] | None = None
        """Arguments from the next start on, which may change; with none left it is not started until it has some."""
        self.began_with: Sequence[str] = ()
        """Those of the last start."""

    async def run(self) -> int:
        """Keep it running; returns its exit status when it was told to end, or is given up."""
        pause, failures = Pause(), 0
        while True:
            started = time.monotonic()
            status = await self._once()
            if self._ending.is_set():
                return status
            failures += 1
            if not self.settled and (status == USAGE_ERROR or failures >= HOPELESS_AFTER):
                return status
            seconds = pause.after(time.monotonic() - started)
            then = f"starting it again in {seconds:g} s" if self._has_work else "nothing is left for it to do"
            self._say(self.name, f"ended with {_describe(status)}; {then}")
            if await self._ends_within(seconds):
                return status

    async def _ends_within(self, seconds: float) -> bool:
        """Wait so long, and on while there is nothing for it to do; whether it was told to end meanwhile."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), seconds)
                return True
            if self._has_work:
                return False

    @property
    def _has_work(self) -> bool:
        return self.tail is None or bool(self.tail)

    async def _once(self) -> int:
        self.began_with = self.tail or ()
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            *(self.tail or ()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self.environment,
            pass_fds=self._pass_fds,
            start_new_session=True,  # Ctrl-C is for us: we end the children in their order
            preexec_fn=_before_exec,
        )
        if self._ending.is_set():
            self._signal(signal.SIGTERM)
        assert process.stdout is not None  # noqa: S101 - for the type checker
        pump = asyncio.create_task(self._pump(process.stdout))
        status = await process.wait()
        # A grandchild may hold the pipe open; what the child itself wrote is there at once.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(pump, 1)
        return status

    async def _pump(self, stream: asyncio.StreamReader) -> None:
        """Pass its lines on, however long they are."""
        rest = b""
        while data := await stream.read(65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._say(self.name, line.decode(errors="replace"))
        if rest:
            self._say(self.name, rest.decode(errors="replace"))

    @property
    def running(self) -> bool:
        """Whether a process is there now."""
        return self._process is not None and self._process.returncode is None

    def terminate(self) -> None:
        """Ask it to end, and never start it again."""
        self._ending.set()
        self._signal(signal.SIGTERM)

    def hang_up(self) -> None:
        """Have it read its configuration again; one that only just begins has."""
        self._signal(signal.SIGHUP)

    def kill(self) -> None:
        """End it and what it started at once, and never start it again."""
        self._ending.set()
        if self.running and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.running and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)


def _describe(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name


_die = die_with_parent(signal.SIGKILL)


def _before_exec() -> None:
    """Tie a child to this process; it is deaf to SIGHUP until it can do as that says."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _die()
