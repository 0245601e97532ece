"""A server in the test's own loop whose connections the test holds in its hands: `open_server`, `accept`, `Peer`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

SECONDS = 5.0
"""Limit to every step; a test that needs more has failed."""


@dataclass
class Peer:
    """The server's end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def request(self) -> tuple[bytes, bytes]:
        """Return head and body of the next request."""
        async with asyncio.timeout(SECONDS):
            head = await self.head()
            (length,) = [line[15:] for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
            return head, await self.reader.readexactly(int(length))

    async def head(self) -> bytes:
        """Return the next request's head; its body may still be on its way."""
        async with asyncio.timeout(SECONDS):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def serve(self, answer: bytes) -> tuple[bytes, bytes]:
        """Answer the next request; returns it."""
        request = await self.request()
        await self.send(answer)
        return request

    async def send(self, data: bytes) -> None:
        """Send; waits while the client reads too little."""
        async with asyncio.timeout(SECONDS):
            self.writer.write(data)
            await self.writer.drain()
            await asyncio.sleep(0)  # a TLS connection that is being closed takes everything at once

    def close(self) -> None:
        """Close after what was sent."""
        self.writer.close()

    def reset(self) -> None:
        """Close at once, by a TCP reset, and lose what was not sent."""
        if not self.writer.transport.is_closing():
            linger = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    @property
    def unsent(self) -> int:
        """Bytes that neither the client nor the kernel has taken."""
        return self.writer.transport.get_write_buffer_size()

    async def closed(self, seconds: float = 1.0) -> None:
        """Wait for the client to close; further bytes of it are skipped."""
        async with asyncio.timeout(seconds):
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                while await self.reader.read(1 << 16):
                    pass


@dataclass
class PeerServer:
    """Listens; every connection is handed to the test in the order of arrival."""

    address: str = ""
    """`host:port`"""
    accepted: int = 0
    _waiting: asyncio.Queue[Peer] = field(default_factory=asyncio.Queue)
    _peers: list[Peer] = field(default_factory=list)
    _has_ended: bool = False

    def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a new connection."""
        if self._has_ended:
            writer.transport.abort()
            return
        self.accepted += 1
        peer = Peer(reader, writer)
        self._peers.append(peer)
        self._waiting.put_nowait(peer)

    async def accept(self) -> Peer:
        """Return the next connection."""
        async with asyncio.timeout(SECONDS):
            return await self._waiting.get()

    async def end(self) -> None:
        """Close every connection, those that are still to come too."""
        self._has_ended = True
        for peer in self._peers:
            peer.reset()
            with contextlib.suppress(OSError):
                await peer.writer.wait_closed()


@contextlib.asynccontextmanager
async def open_server(tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[PeerServer]:
    """Listen on a free loopback port."""
    server = PeerServer()
    listener = await asyncio.start_server(server.meet, host, 0, ssl=tls, limit=1 << 17)
    port = listener.sockets[0].getsockname()[1]
    server.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        yield server
    finally:
        listener.close()
        await server.end()
