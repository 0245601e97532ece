"""The page of all commands: what `--help` says of each."""

from __future__ import annotations

from collections.abc import Iterator

import click

from aqueduct.cli import cli

HEAD = """# Commands

Written by `make docs-reference` from what `--help` says. Exit status: 0 done, 1 failed or refused, 2 wrong usage or
configuration; where a command has others, its text says so.
"""
_WIDTH = 100


def page() -> str:
    """Return the page: each command and each of its own commands, under a heading."""
    root = click.Context(cli, info_name="aqueduct", terminal_width=_WIDTH, max_content_width=_WIDTH)
    return HEAD + "".join(_of(root, cli, level=2)) + "\n"


def _of(above: click.Context, group: click.Group, level: int) -> Iterator[str]:
    for name in group.list_commands(above):
        command = group.get_command(above, name)
        if command is None or command.hidden:
            continue
        context = click.Context(
            command, info_name=name, parent=above, terminal_width=_WIDTH, max_content_width=_WIDTH,
            help_option_names=["-h", "--help"],
        )  # fmt: skip
        text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        yield f"\n{'#' * level} {context.command_path}\n\n```text\n{text}\n```\n"
        if isinstance(command, click.Group):
            yield from _of(context, command, level + 1)
