"""What the tests of transports share: both loops, a server and a client of it, answers as bytes."""

from __future__ import annotations

import asyncio
import functools
import gc
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from shared import tls_files
from tests.support.asynchronous import on_each_loop
from tests.support.peers import SECONDS, Peer, PeerServer, open_server
from tests.support.waiting import wait_until_async
from workers.transport.base import Response, Transport
from workers.transport.own import OwnTransport

TEST_SECONDS = 10.0
MEGABYTE = 1 << 20
PATH = b"/chat/completions"
ASK = b"x-request-id: req_1\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine as a test on each loop, within a limit; whatever a loop complains of meanwhile fails it."""

    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(TEST_SECONDS):
            await test(*args, **kwargs)
        gc.collect()  # a failure that nobody asked for is told of when its task goes
        assert not complaints

    return on_each_loop(bounded)


@asynccontextmanager
async def calling(
    address: str, *, scheme: str = "http", path: str = "/v1", connect_seconds: float = 2.0, **headers: str
) -> AsyncIterator[OwnTransport]:
    tls = tls_files.system_context() if scheme == "https" else None
    url = f"{scheme}://{address}{path}"
    transport = OwnTransport(url, headers, connect_timeout_seconds=connect_seconds, tls=tls)
    try:
        yield transport
    finally:
        transport.close()


@dataclass
class Pair:
    """A server and a client of it."""

    server: PeerServer
    transport: Transport

    def post(self, body: bytes = b"{}") -> asyncio.Task[Response]:
        return asyncio.create_task(self.transport.post(PATH, ASK, body))

    async def exchange(self, answer: bytes, peer: Peer | None = None) -> tuple[Response, Peer]:
        """Ask and answer, on a new connection or on that of a peer."""
        call = self.post()
        peer = peer or await self.server.accept()
        await peer.serve(answer)
        return await within(call), peer


@asynccontextmanager
async def open_pair(tls: ssl.SSLContext | None = None) -> AsyncIterator[Pair]:
    scheme = "https" if tls else "http"
    async with open_server(tls) as server, calling(server.address, scheme=scheme) as transport:
        yield Pair(server, transport)


async def within(task: asyncio.Task[Any]) -> Any:
    async with asyncio.timeout(SECONDS):
        return await task


async def read_all(response: Response) -> bytes:
    async with asyncio.timeout(SECONDS):
        parts = []
        while part := await response.read():
            parts.append(part)
        assert response.is_complete
        return b"".join(parts)


def counted(body: bytes, *lines: bytes, start: bytes = OK) -> bytes:
    head = b"".join(line + b"\r\n" for line in lines)
    return b"%bcontent-length: %d\r\n%b\r\n%b" % (start, len(body), head, body)


def chunked(*parts: bytes, trailer: bytes = b"") -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return OK + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n"


def descriptors() -> int:
    return psutil.Process().num_fds()


async def descriptors_are(count: int) -> None:
    await wait_until_async(lambda: descriptors() <= count, 2, f"at most {count} open descriptors")


async def stalled(peer: Peer) -> int:
    """Wait until the client takes no more; returns what is left."""
    seen = [0, 0]

    def is_still() -> bool:
        seen[:] = seen[1], peer.unsent
        return seen[0] == seen[1] > 0

    await wait_until_async(is_still, SECONDS, "back-pressure", poll_seconds=0.1)
    return seen[1]
