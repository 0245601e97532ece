"""The one place where `aqueduct up` and its children write, each its own lines under its name.

A variable tells a child the descriptor and its name; its log goes there without a way through `up`. What a child says
otherwise (an error before its log is set up, a traceback of the interpreter, a library written in C) comes to `up`
through a pipe and is passed on (`say`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from contextlib import suppress

_VARIABLE = "AQUEDUCT_UP_LOG"


def log_descriptor() -> int:
    """Return a descriptor for children to write to what this process writes its own lines to."""
    stream = sys.stderr or sys.stdout
    return os.dup(stream.fileno()) if stream is not None else os.open(os.devnull, os.O_WRONLY)


def variable(fd: int, name: str) -> dict[str, str]:
    """Return what a child with this descriptor and name finds in its environment."""
    return {_VARIABLE: f"{fd} {name}"}


def take(environ: MutableMapping[str, str]) -> None:
    """Have the lines of this process go where the variable says; it is removed, as children have no such descriptor."""
    fd, _, name = environ.pop(_VARIABLE, "").partition(" ")
    if not name:
        return
    from shared.logging import log_under_name  # noqa: PLC0415 - keeps `--help` fast

    os.set_inheritable(int(fd), False)
    log_under_name(int(fd), name)


def say(name: str, line: str) -> None:
    """Print one line of ours, or what a child says beside its log, under its name; as one, since children write too."""
    from shared.logging import escaped, under_name  # noqa: PLC0415

    stream = sys.stderr or sys.stdout
    if stream is not None:
        with suppress(OSError):  # a reader that has gone, or a full disk, is no reason to end a gateway
            stream.write(f"{under_name(name, escaped(line))}\n")
            stream.flush()
