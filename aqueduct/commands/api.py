"""`aqueduct api`: one API process, until SIGTERM or Ctrl-C; open streams get their grace time."""

from __future__ import annotations

import argparse
import socket
from typing import Any

from aqueduct.commands.common import CommandError, Subparsers, add_common_options, require_redis_url, settings_for


def add_parser(subparsers: Subparsers[Any]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser("api", help="run an API process", description=__doc__)
    add_common_options(parser)
    parser.add_argument("--host", help="address to listen on (AQUEDUCT_API__HOST)")
    parser.add_argument("--port", type=int, help="port to listen on (AQUEDUCT_API__PORT)")
    # How `aqueduct up` lets several processes share one port: they inherit the socket it listens on.
    parser.add_argument("--fd", type=int, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Serve; blocks."""
    settings = settings_for(args, resolve_backend_keys=False)
    require_redis_url(settings)
    given = {name: value for name, value in (("host", args.host), ("port", args.port)) if value is not None}
    settings = settings.model_copy(update={"api": settings.api.model_copy(update=given)})
    from api.server import run as serve  # noqa: PLC0415 - keeps `--help` fast

    if args.fd is not None:
        serve(settings, listener=socket.socket(fileno=args.fd))
        return 0
    listen(settings.api.host, settings.api.port).close()  # a clear message when the port is taken
    serve(settings)
    return 0


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address; CommandError names the fix when it cannot.

    The caller closes it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise CommandError(
            f"cannot listen on {host}:{port} ({reason}). Choose another with --port or --host."
        ) from None
    return sock
