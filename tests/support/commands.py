"""The command line without its work: words in, what `aqueduct` makes of them out."""

from __future__ import annotations

import click

from aqueduct.cli import cli


def parse(*words: str) -> click.Context:
    """Return the subcommand's context, its options parsed; click's UsageError when the words are wrong."""
    with click.Context(cli, info_name="aqueduct") as above:
        name, command, rest = cli.resolve_command(above, list(words))
        assert command is not None
        return command.make_context(name, rest, parent=above)
