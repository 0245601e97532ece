"""`aqueduct api`: one API process, until SIGTERM or Ctrl-C; open streams get their grace time."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from aqueduct.commands.common import Overrides, address_options, catalogue_for, config_option, logging_options


@click.command("api", help=__doc__)
@config_option
@address_options("api")
@logging_options
# How `aqueduct up` lets several processes share one port: they inherit the socket it listens on.
@click.option("--fd", type=int, hidden=True)
@click.pass_obj
def command(overrides: Overrides, config: Path | None, fd: int | None) -> int:
    """Serve; blocks."""
    catalogue = catalogue_for(config, overrides, resolve_backend_keys=False)
    settings = catalogue.settings
    from api.server import run as serve  # noqa: PLC0415 - keeps `--help` fast
    from aqueduct.ports import listen  # noqa: PLC0415

    if fd is not None:
        serve(catalogue, listener=socket.socket(fileno=fd))
        return 0
    listen(settings.api.host, settings.api.port).close()  # a clear message when the port is taken
    serve(catalogue)
    return 0
