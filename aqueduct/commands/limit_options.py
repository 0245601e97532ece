"""The options that give limits, to a token or to a group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

_LIMITS: Final = {
    "--requests-per-minute": "In any 60 seconds; past it: 429.",
    "--tokens-per-minute": "Of prompts and answers; past it: 429.",
    "--concurrent-jobs": "Waiting and running together; past it: 429.",
    "--waiting-jobs": "Waiting for a slot; past it: 429.",
    "--tokens-per-day": "Batches too, UTC; past it: 429.",
    "--tokens-per-month": "Batches too, UTC; past it: 429.",
    "--slot-seconds-per-day": "For how long jobs hold slots, batches too, UTC; past it: 429.",
    "--slot-seconds-per-month": "For how long jobs hold slots, batches too, UTC; past it: 429.",
}


def limit_options(more: str = "", **options: Any) -> Callable[[Command], Command]:
    """Give a command an option for each limit; `more` ends the help of each."""

    def decorate(command: Command) -> Command:
        for name, text in reversed(_LIMITS.items()):
            command = click.option(name, metavar="N", help=f"{text} {more}".strip(), **options)(command)
        return command

    return decorate
