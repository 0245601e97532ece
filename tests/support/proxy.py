"""A small forward proxy in the test's own loop: CONNECT and absolute URLs, with or without a password."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ForwardProxy:
    """Relays bytes as they come; either side's end is the other's."""

    login: bytes = b""
    """`user:password` to ask for."""
    refusal: bytes = b""
    """To answer instead of relaying."""
    address: str = ""
    """`host:port`"""
    heads: list[bytes] = field(default_factory=list)
    """Of every request to the proxy itself."""
    accepted: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.accepted += 1
        onward: asyncio.StreamWriter | None = None
        back: asyncio.Task[None] | None = None
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, OSError, ssl.SSLError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    self.heads.append(head)
                    if refusal := self._refusal(head):
                        writer.write(refusal)
                        await writer.drain()
                        return
                    method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
                    if onward is None:
                        place = target if method == b"CONNECT" else target.split(b"/", 3)[2]
                        host, _, port = place.decode().rpartition(":")
                        answers, onward = await asyncio.open_connection(host.strip("[]"), int(port))
                        narrow(onward.get_extra_info("socket"))
                        back = asyncio.create_task(relay(answers, writer))
                    if method == b"CONNECT":
                        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                        await relay(reader, onward)
                        return
                    await self._forward(head, reader, onward)
        finally:
            for end in filter(None, (writer, onward)):
                end.transport.abort()
            if back is not None:
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)

    def _refusal(self, head: bytes) -> bytes:
        wanted = b"proxy-authorization: basic " + b64encode(self.login)
        lines = [line[:27].lower() + line[27:] for line in head.split(b"\r\n")]
        if self.login and wanted not in lines:
            return b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n"
        return self.refusal

    @staticmethod
    async def _forward(head: bytes, reader: asyncio.StreamReader, onward: asyncio.StreamWriter) -> None:
        """Send a request on as its server wants it."""
        first, rest = head.split(b"\r\n", 1)
        method, target, version = first.split(b" ")
        lines = [line for line in rest.split(b"\r\n") if not line.lower().startswith(b"proxy-")]
        (length,) = [line[15:] for line in lines if line.lower().startswith(b"content-length:")]
        onward.write(b" ".join((method, b"/" + target.split(b"/", 3)[3], version)) + b"\r\n" + b"\r\n".join(lines))
        onward.write(await reader.readexactly(int(length)))
        await onward.drain()


def narrow(sock: Any) -> None:
    """Let the kernel keep little of what is on its way: who does not read is to be noticed by who sends."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 1 << 16)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio does so only for sockets of its own making


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass bytes on to the end of either, which then is the other's."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(1 << 14):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def open_proxy(
    login: bytes = b"", refusal: bytes = b"", tls: ssl.SSLContext | None = None
) -> AsyncIterator[ForwardProxy]:
    """Listen on a free loopback port."""
    proxy = ForwardProxy(login, refusal)
    serving: set[asyncio.Task[None]] = set()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            await proxy.serve(reader, writer)
        except asyncio.CancelledError:
            pass  # the test is over; asyncio's streams would complain of it
        finally:
            serving.discard(task)

    sock = socket.create_server(("127.0.0.1", 0))
    narrow(sock)  # and with it each connection that it accepts
    listener = await asyncio.start_server(meet, sock=sock, ssl=tls)
    proxy.address = f"127.0.0.1:{sock.getsockname()[1]}"
    try:
        yield proxy
    finally:
        listener.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
