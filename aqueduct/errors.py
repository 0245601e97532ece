"""How a command fails: an error whose text is for the person who typed it, and the exit status that goes with it."""

from __future__ import annotations

FAILED = 1
WRONG_USAGE = 2
"""Wrong options, or a configuration that cannot be used: to start again changes nothing."""


class CommandError(Exception):
    """The command cannot do its work; the message says why, and what to do."""

    def __init__(self, message: str, *, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status
