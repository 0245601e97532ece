"""A server and a transport to it, by any of the ways: what `test_promises.py` plays the same play on."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import SecretStr

from shared.backend_settings import BackendSettings
from tests.support.http2_peer import Http2Peer
from tests.support.peers import Peer, PeerServer, open_server
from tests.support.proxy import ForwardProxy, open_proxy
from tests.support.waiting import wait_until_async
from tests.workers.transport.stage import ASK, PATH
from workers.transport.base import Response, Transport
from workers.transport.choice import open_transport


@dataclass(frozen=True)
class Kind:
    """One way from a worker to a backend."""

    tls: bool = False
    http2: bool = False
    proxy: str = ""
    """Its scheme."""


KINDS = {
    "own": Kind(),
    "own, TLS": Kind(tls=True),
    "proxy": Kind(proxy="http"),
    "proxy, TLS": Kind(proxy="http", tls=True),
    "TLS proxy": Kind(proxy="https"),
    "TLS proxy, TLS": Kind(proxy="https", tls=True),
    "HTTP/2": Kind(http2=True),
    "HTTP/2, TLS": Kind(http2=True, tls=True),
    "HTTP/2, proxy": Kind(http2=True, tls=True, proxy="http"),
}


@dataclass(frozen=True)
class Certificates:
    """What servers of these tests show, and the file of who vouches for them."""

    authority: Path
    certificate: Path
    key: Path

    def context(self, *protocols: str) -> ssl.SSLContext:
        """Return a server's context that offers the protocols."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context


class Side(Protocol):
    """The server's end of a call, whatever it speaks."""

    peer: Peer

    async def ask(self) -> tuple[str, dict[str, str], bytes]:
        """Return path, headers and body of the next request."""
        ...

    async def head(self, status: int = 200) -> None: ...
    async def part(self, data: bytes) -> None: ...
    async def finish(self) -> None: ...


@dataclass
class Http1Side:
    peer: Peer

    async def ask(self) -> tuple[str, dict[str, str], bytes]:
        head, body = await self.peer.request()
        first, *lines = head.decode().split("\r\n")[:-2]
        pairs = (line.split(": ", 1) for line in lines)
        return first.split(" ")[1], {name.lower(): value for name, value in pairs}, body

    async def head(self, status: int = 200) -> None:
        await self.peer.send(b"HTTP/1.1 %d x\r\nx-a: b\r\ntransfer-encoding: chunked\r\n\r\n" % status)

    async def part(self, data: bytes) -> None:
        await self.peer.send(b"%x\r\n%b\r\n" % (len(data), data))

    async def finish(self) -> None:
        await self.peer.send(b"0\r\n\r\n")


@dataclass
class Http2Side:
    peer: Peer
    http2: Http2Peer

    async def ask(self) -> tuple[str, dict[str, str], bytes]:
        headers, body = await self.http2.request()
        return headers[":path"], headers | {"host": headers[":authority"]}, body

    async def head(self, status: int = 200) -> None:
        await self.http2.head(status, ("x-a", "b"))

    async def part(self, data: bytes) -> None:
        await self.http2.send(data)

    async def finish(self) -> None:
        await self.http2.finish()


@dataclass
class Scene:
    """A server, a transport to it, and the proxy between them."""

    kind: Kind
    server: PeerServer
    transport: Transport
    proxy: ForwardProxy | None

    def post(self, body: bytes = b"{}") -> asyncio.Task[Response]:
        return asyncio.create_task(self.transport.post(PATH, ASK, body))

    async def accept(self) -> Side:
        peer = await self.server.accept()
        return Http2Side(peer, Http2Peer(peer)) if self.kind.http2 else Http1Side(peer)

    async def exchange(self, side: Side | None = None, body: bytes = b"yes") -> tuple[Response, Side]:
        """Ask and answer, on a new connection or on that of a side."""
        call = self.post()
        side = side or await self.accept()
        await side.ask()
        await side.head()
        if body:
            await side.part(body)
        await side.finish()
        response = await call
        await wait_until_async(lambda: response.is_complete, poll_seconds=0)  # only then the connection is free
        return response, side


@asynccontextmanager
async def open_scene(
    kind: Kind,
    certificates: Certificates,
    *,
    login: str = "",
    refusal: bytes = b"",
    connect_seconds: float = 2,
    headers: dict[str, str] | None = None,
) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        protocols = ("h2",) if kind.http2 else ()
        server = await stack.enter_async_context(open_server(certificates.context(*protocols) if kind.tls else None))
        proxy = None
        if kind.proxy:
            tls = certificates.context() if kind.proxy == "https" else None
            proxy = await stack.enter_async_context(open_proxy(b"", refusal, tls))
        backend = BackendSettings(
            url=f"{'https' if kind.tls else 'http'}://{server.address}/v1",
            http2=kind.http2,
            ca_file=certificates.authority if kind.tls or kind.proxy == "https" else None,
            proxy=SecretStr(f"{kind.proxy}://{login}{'@' if login else ''}{proxy.address}") if proxy else None,
        )
        transport = open_transport(backend, headers or {"accept": "x/y"}, connect_timeout_seconds=connect_seconds)
        stack.callback(transport.close)
        yield Scene(kind, server, transport, proxy)
