"""Lines of the log in, whole lines on a file, pipe or terminal out: written by a thread, many at a time.

Nobody who logs ever waits for whoever reads. What cannot be written waits, up to a bound; past it, and where writing
fails, lines are lost, and the next one that gets through is preceded by how many. One that must not be lost with the
process is waited for, for a moment (`add(at_once=True)`).
"""

from __future__ import annotations

import os
import select
import stat
import threading
import time
from collections.abc import Callable
from typing import Final

GATHER_SECONDS: Final = 0.02
"""How long lines are gathered. What `kill -9` takes with it."""
MAX_WAITING: Final = 4 << 20
"""Characters that wait at most: two seconds' worth of lines where 5,000 requests a second are logged."""
MORE_FOR_ERRORS: Final = 1 << 20
"""Room beyond that for errors, which a flood of requests must not keep out."""
MOMENT_SECONDS: Final = 0.1
"""How long a line that is written at once is waited for: a terminal may be held by Ctrl-S."""
LAST_SECONDS: Final = 2.0
"""How long a process that ends waits for whoever reads, since the last thing they read."""
ATOMIC: Final = select.PIPE_BUF
"""Bytes that a pipe takes as a whole, whoever else writes to it."""


class LogOutput:
    """The lines of one process on one descriptor, which stays the caller's."""

    def __init__(self, fd: int, lost: Callable[[int], str], *, encoding: str = "utf-8") -> None:
        """Take what makes the line that tells how many were lost."""
        self.fd = fd
        self._lost_line = lost
        self._encoding = encoding
        self._is_shared_by_parts = _is_shared_by_parts(fd)
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Begin with nothing: what waits in a parent is the parent's to write, and its thread is not in the child."""
        # Reentrant: a handler of a signal may log in the midst of any line here.
        self._changed = threading.Condition(threading.RLock())
        self._waiting: list[str] = []
        self._size = 0
        self._dropped = 0
        self._done = 0
        self._under_way = 0
        self._hurry = False
        self._is_idle = True
        self._progress = 0
        self._is_stuck = False
        """Whether somebody has waited for a moment in vain since the last write."""
        self._is_closed = False
        self._lost = 0
        self._is_torn = False
        """Whether a line was written in part and the rest of it lost."""
        self._thread: threading.Thread | None = None

    def add(self, line: str, *, at_once: bool = False, is_error: bool = False) -> None:
        """Take a line without its end; `at_once` returns when it is written, or after a moment."""
        with self._changed:
            if self._size >= (MAX_WAITING + MORE_FOR_ERRORS if is_error else MAX_WAITING):
                self._dropped += 1
                return
            self._waiting.append(line)
            self._size += len(line)
            if self._is_closed:
                self._write_waiting()
            elif self._thread is None:
                self._start()
            elif self._is_idle:
                self._changed.notify_all()
        if at_once and not self._is_stuck:
            self._is_stuck = not self.flush(MOMENT_SECONDS)

    def flush(self, seconds: float = LAST_SECONDS) -> bool:
        """Wait until all that was added is written; returns whether it is. Gives up so long after the last progress."""
        with self._changed:
            target = self._done + self._under_way + len(self._waiting)
            seen, until = self._progress, time.monotonic() + seconds
            while self._done < target:
                self._hurry = True
                self._changed.notify_all()
                self._changed.wait(max(0.0, until - time.monotonic()))
                if self._progress != seen:
                    seen, until = self._progress, time.monotonic() + seconds
                elif time.monotonic() >= until:
                    return self._done >= target
        return True

    def close(self) -> None:
        """Write what waits. What is logged later still is written by whoever logs: threads do not outlive the end."""
        if self.flush():
            self._is_closed = True
            self._tell_lost()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._serve, name="log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter ends, or no thread can be had
            self._thread = None
            self._write_waiting()

    def _serve(self) -> None:
        while True:
            with self._changed:
                if self._is_idle:
                    self._changed.wait_for(lambda: self._waiting)
                    self._is_idle = False
                # While lines keep coming nobody has to wake this thread: it looks by itself.
                self._changed.wait_for(lambda: self._hurry, GATHER_SECONDS)
                self._is_idle = not self._waiting
            self._write_waiting()

    def _write_waiting(self) -> None:
        with self._changed:
            lines, self._waiting = self._waiting, []
            dropped, self._dropped = self._dropped, 0
            self._size, self._hurry, self._under_way = 0, False, len(lines)
        try:
            if lines or dropped:
                self._write(lines, dropped)
        except Exception:  # the outermost edge of this thread, without which there would be no log
            self._lost += len(lines)
        with self._changed:
            self._done += self._under_way
            self._under_way = 0
            self._changed.notify_all()

    def _write(self, lines: list[str], dropped: int) -> None:
        """Write lines, and how many were lost where they were: before these, or behind, where the room was used up."""
        if self._tell_lost():
            data = "".join([f"{line}\n" for line in lines]).encode(self._encoding, "backslashreplace")
            self._lost = sum(self._put(part) for part in self._parts(data)) + dropped
            self._tell_lost()
        else:
            self._lost += len(lines) + dropped

    def _tell_lost(self) -> bool:
        """Tell of what was lost, if anything was; returns whether nothing is left to be told."""
        if self._lost:
            if self._put(f"{self._lost_line(self._lost)}\n".encode(self._encoding, "backslashreplace")):
                return False
            self._lost = 0
        return True

    def _parts(self, data: bytes) -> list[bytes]:
        """Return whole lines, so many together as no other process can write into; a line that is longer is alone."""
        if not self._is_shared_by_parts or len(data) <= ATOMIC:
            return [data]
        parts, start = [], 0
        while start < len(data):
            end = data.rfind(b"\n", start, start + ATOMIC) + 1 or data.find(b"\n", start) + 1
            parts.append(data[start:end])
            start = end
        return parts

    def _put(self, data: bytes) -> int:
        """Write it all, however long that takes; returns how many of its lines could not be."""
        whole = left = memoryview(b"\n" + data if self._is_torn else data)
        while left:
            try:
                left = left[os.write(self.fd, left) :]
            except BlockingIOError:  # whoever else has this pipe or terminal open has made it so
                self._wait_for_room()
            except OSError:
                if written := len(whole) - len(left):
                    self._is_torn = whole[written - 1] != ord("\n")
                return min(left.tobytes().count(b"\n"), data.count(b"\n"))
            else:
                self._progress += 1
                self._is_stuck = False
        self._is_torn = False
        return 0

    def _wait_for_room(self) -> None:
        room = select.poll()
        room.register(self.fd, select.POLLOUT)
        room.poll()


def _is_shared_by_parts(fd: int) -> bool:
    """Whether others may write in the midst of what is written here: not to a file or a terminal, which have locks."""
    try:
        return not (stat.S_ISREG(os.fstat(fd).st_mode) or os.isatty(fd))
    except OSError:
        return False
