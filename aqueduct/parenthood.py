"""Children that never outlive their parent, even a killed one: `die_with_parent(signal)` for `Popen(preexec_fn=…)`.

Linux: the kernel sends the signal when the *thread* that started the child ends, so start children from the main
thread. macOS has no such thing; there, children of a killed parent live on (`EmbeddedRedis` stops a left-over server
at its next start).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
# Loaded before any fork: a child between fork and exec must not load libraries.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(death_signal: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """Return a function for `preexec_fn` that ties the child's life to this process."""
    parent = os.getpid()

    def tie() -> None:
        if _LIBC is None:
            return
        _LIBC.prctl(PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before the call above
            os.kill(os.getpid(), death_signal)

    return tie
