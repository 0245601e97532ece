"""`aqueduct demo-backend`: a small OpenAI-compatible server with scripted answers, to try and test a gateway with."""

from __future__ import annotations

import os
import sys

import click


@click.command(
    "demo-backend",
    # Its options are those of `python -m aqueduct.demo`: every word is passed on.
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> int:
    """Become the demo backend."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "aqueduct.demo", *arguments])  # noqa: S606 - no shell is meant
