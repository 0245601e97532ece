"""What goes to Redis and comes from it, and the two ways in which nothing comes of it."""

from __future__ import annotations

from typing import Any, Final

Reply = Any
Argument = str | bytes | memoryview | int | float

_NO_MASTER: Final = ("READONLY", "MASTERDOWN")


class RedisUnavailable(Exception):
    """Redis is away, or did not answer in time. The command may or may not have run."""


class RedisRefused(Exception):
    """Redis answered with an error. `kind` is its first word, such as OOM or NOSCRIPT.

    A command alone did not run then; a script may have run up to the line that failed.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.kind = message.partition(" ")[0]

    @property
    def by_replica(self) -> bool:
        """Whether a replica answered, as a master that was demoted does; Redis 6.2 tells of it inside a script's ERR.

        A Redis that loads its file (LOADING) is still the right one.
        """
        return self.kind in _NO_MASTER or "-READONLY " in str(self)
