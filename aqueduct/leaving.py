"""How a command's process ends."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn


def leave(status: int) -> NoReturn:
    """End the process with this exit status, all that ends with it included but for the interpreter itself.

    A thread of the store's library that hears of an answer just then asks for the interpreter's lock once more. An
    interpreter that is being torn down ends such a thread, which its Rust does not survive: the process would abort,
    with status 134 for a command that has done its work.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # waits for our own threads, as the interpreter's end does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
