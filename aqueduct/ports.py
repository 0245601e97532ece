"""Ports of this machine: an address in, a listening socket or the number of a free port out."""

from __future__ import annotations

import socket

from aqueduct.errors import CommandError


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


def free_port() -> int:
    """Return a loopback port that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def url_of(host: str, port: int) -> str:
    """Return where this machine reaches what listens there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not an address to bind
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
