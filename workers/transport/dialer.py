"""TCP and TLS connections to one server: names looked up, all its addresses tried, each within one limit."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import aiohappyeyeballs

from workers.transport.base import ConnectFailed

ADDRESS_SECONDS = 10.0
"""For how long a name's addresses are believed."""
HAPPY_EYEBALLS_SECONDS = 0.25

_P = TypeVar("_P", bound=asyncio.BaseProtocol)


class Dialer:
    """Makes connections to one host and port. Made and used on one event loop."""

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None, timeout_seconds: float) -> None:
        """Take where to connect to, the host in ASCII; the limit is for all of it, from look-up to handshake."""
        self._host = host
        self._port = port
        self._tls = tls
        self._timeout_seconds = timeout_seconds
        self._loop = asyncio.get_running_loop()
        self._addresses: list[Any] = []
        self._addresses_until = 0.0
        self._lookup: asyncio.Task[None] | None = None

    async def dial(self, make_protocol: Callable[[], _P]) -> _P:
        """Return the protocol of a new connection; raises ConnectFailed."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                sock = await aiohappyeyeballs.start_connection(
                    await self._resolve(), happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS, interleave=1, loop=self._loop
                )
                try:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    server_name = self._host.rstrip(".") if self._tls else None
                    _, protocol = await self._loop.create_connection(
                        make_protocol, sock=sock, ssl=self._tls, server_hostname=server_name
                    )
                except BaseException:
                    # A transport, which may not be made yet, owns the descriptor: this makes it close by itself.
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)
                    raise
        except (OSError, TimeoutError, UnicodeError, RuntimeError) as error:
            # UnicodeError: a host that cannot be a name; RuntimeError: how uvloop fails for some sockets.
            self._addresses_until = 0.0  # it may have moved
            raise ConnectFailed from error
        return protocol

    async def _resolve(self) -> list[Any]:
        """Return the addresses; a name is looked up in a thread, and believed for a while."""
        if self._loop.time() >= self._addresses_until:
            if self._lookup is None:
                self._lookup = self._loop.create_task(self._look_up())
                self._lookup.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.shield(self._lookup)  # one thread for all who wait: a silent name server must not use up all
        return self._addresses

    async def _look_up(self) -> None:
        flags = socket.AI_NUMERICHOST if _is_address(self._host) else socket.AI_ADDRCONFIG
        try:
            self._addresses = await self._loop.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=flags
            )
            self._addresses_until = self._loop.time() + ADDRESS_SECONDS
        finally:
            self._lookup = None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
