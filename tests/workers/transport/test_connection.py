"""Our own transport against real sockets: what goes out, how a connection is made, and how it is let go."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

import pytest

from tests.support.peers import open_server
from tests.workers.transport.stage import (
    ASK,
    MEGABYTE,
    OK,
    PATH,
    calling,
    chunked,
    counted,
    descriptors,
    descriptors_are,
    on_both_loops,
    open_pair,
    read_all,
    stalled,
    within,
)
from workers.transport.base import ConnectFailed, ConnectionLost


@on_both_loops
async def test_a_request_has_its_headers_and_its_body() -> None:
    async with open_server() as server, calling(server.address, path="/v1", accept="x/y") as transport:
        call = asyncio.create_task(transport.post(b"/chat", ASK, b'{"a":1}'))
        head, body = await (await server.accept()).serve(counted(b"yes"))
        assert await read_all(await within(call)) == b"yes"
        lines = head.split(b"\r\n")
        assert lines[0] == b"POST /v1/chat HTTP/1.1"
        assert sorted(lines[1:-2]) == sorted([
            b"host: " + server.address.encode(), b"accept: x/y", b"accept-encoding: identity", b"x-request-id: req_1",
            b"content-length: 7",
        ])  # fmt: skip
        assert body == b'{"a":1}'


@pytest.mark.parametrize("over_tls", [False, True])
@on_both_loops
async def test_a_request_of_ten_megabytes_arrives_whole(over_tls: bool, trusted: ssl.SSLContext) -> None:
    body = os.urandom(MEGABYTE) * 10
    async with open_pair(trusted if over_tls else None) as pair:
        call = pair.post(body)
        peer = await pair.server.accept()
        assert (await peer.serve(counted(b"yes")))[1] == body
        assert await read_all(await within(call)) == b"yes"
        await pair.exchange(counted(b"again"), peer)
        assert pair.server.accepted == 1


@on_both_loops
async def test_user_and_password_of_the_url_are_sent_decoded() -> None:
    async with open_server() as server, calling("us%40er:p%3Aw%C3%A9@" + server.address) as transport:
        call = asyncio.create_task(transport.post(PATH, b"", b""))
        head, _ = await (await server.accept()).serve(counted(b""))
        await within(call)
        assert b"authorization: Basic " + b64encode("us@er:p:wé".encode()) in head.split(b"\r\n")
        assert b"host: " + server.address.encode() in head.split(b"\r\n")


def loopbacks() -> list[str]:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return ["127.0.0.1", "::1"]
    return ["127.0.0.1"]


@pytest.mark.parametrize("host", loopbacks())
@on_both_loops
async def test_addresses_of_both_families_are_called(host: str) -> None:
    async with open_server(host=host) as server, calling(server.address) as transport:
        call = asyncio.create_task(transport.post(PATH, b"", b""))
        head, _ = await (await server.accept()).serve(counted(b"yes"))
        assert await read_all(await within(call)) == b"yes"
        assert b"host: " + server.address.encode() in head.split(b"\r\n")


@on_both_loops
async def test_a_name_beyond_ascii_is_called_by_its_encoded_form() -> None:
    async with open_server() as server:
        port = server.address.partition(":")[2]
        async with calling(f"ｌｏｃａｌｈｏｓｔ:{port}") as transport:
            call = asyncio.create_task(transport.post(PATH, b"", b""))
            head, _ = await (await server.accept()).serve(counted(b"yes"))
            assert await read_all(await within(call)) == b"yes"
            assert b"host: localhost:" + port.encode() in head.split(b"\r\n")


@pytest.mark.parametrize("host", ["nobody.invalid", "a" * 64 + ".invalid", "a..invalid", "256.0.0.1"])
@on_both_loops
async def test_a_name_that_leads_nowhere_is_a_failed_connection(host: str) -> None:
    async with calling(host) as transport:
        with pytest.raises(ConnectFailed):
            await transport.post(PATH, ASK, b"")


@on_both_loops
async def test_a_port_where_nobody_listens_is_a_failed_connection() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    async with calling(f"127.0.0.1:{port}") as transport:
        with pytest.raises(ConnectFailed):
            await transport.post(PATH, ASK, b"")


@pytest.mark.parametrize("when", ["handshake", "head", "reused", "body", "paused"])
@on_both_loops
async def test_cancelling_closes_the_servers_side_and_leaves_nothing(when: str) -> None:
    async with open_server() as server:
        before = descriptors()
        async with calling(server.address, scheme="https" if when == "handshake" else "http") as transport:

            async def call() -> None:
                response = await transport.post(PATH, ASK, b"{}")
                try:
                    await (asyncio.Event().wait() if when == "paused" else read_all(response))
                finally:
                    response.close()

            task = asyncio.create_task(call())
            peer = await server.accept()
            if when == "handshake":
                await peer.reader.readexactly(1)
            elif when == "head":
                await peer.request()
            elif when == "reused":
                await peer.serve(counted(b"1"))
                await within(task)
                task = asyncio.create_task(call())
                await peer.request()
            else:
                await peer.serve(OK + b"content-length: 99999999\r\n\r\nhello")
                if when == "paused":
                    peer.writer.write(b"x" * 20 * MEGABYTE)
                    await stalled(peer)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await within(task)
            await peer.closed()
        peer.reset()
        await descriptors_are(before)


@asynccontextmanager
async def full_backlog() -> AsyncIterator[str]:
    """A server that takes no more connections: connecting to it does not come to an end."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        host, port = listener.getsockname()
        filling: list[asyncio.Task[None]] = []
        sockets: list[socket.socket] = []
        try:
            while not filling or filling[-1].done():
                sockets.append(socket.socket())
                sockets[-1].setblocking(False)
                filling.append(asyncio.create_task(loop.sock_connect(sockets[-1], (host, port))))
                await asyncio.wait(filling[-1:], timeout=0.1)
            yield f"{host}:{port}"
        finally:
            for task in filling:
                task.cancel()
            await asyncio.gather(*filling, return_exceptions=True)
            for one in sockets:
                one.close()


@on_both_loops
async def test_a_connection_that_is_not_made_can_be_cancelled_and_has_a_limit() -> None:
    async with full_backlog() as address:
        before = descriptors()
        async with calling(address, connect_seconds=0.3) as transport:
            with pytest.raises(ConnectFailed):
                await transport.post(PATH, ASK, b"")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await transport.post(PATH, ASK, b"")
        await descriptors_are(before)


@on_both_loops
async def test_cancelling_at_any_step_of_the_loop_leaves_nothing(trusted: ssl.SSLContext) -> None:
    for tls in (None, trusted):
        async with open_pair(tls) as pair:
            await pair.exchange(counted(b"warm"))
            pair.transport.close()
            before = descriptors() - 2
            address, scheme = pair.server.address, "https" if tls else "http"
            for steps in range(40):
                async with calling(address, scheme=scheme) as transport:
                    call = asyncio.create_task(transport.post(PATH, ASK, b"{}"))
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    call.cancel()
                    with suppress(asyncio.CancelledError):
                        (await within(call)).close()
            await pair.server.end()
            await descriptors_are(before)


@pytest.mark.parametrize("answer", [counted(b"x" * 1000)[:-100], chunked(b"hello")[:-5], OK + b"\r\nhello"])
@on_both_loops
async def test_closing_an_answer_fails_who_waits_for_it(answer: bytes) -> None:
    async with open_pair() as pair:
        response, peer = await pair.exchange(answer)
        assert await within(asyncio.create_task(response.read()))
        waiting = asyncio.create_task(response.read())
        asyncio.get_running_loop().call_soon(response.close)
        with pytest.raises(ConnectionLost):
            await within(waiting)
        assert not response.is_complete
        await peer.closed()


@on_both_loops
async def test_closing_an_answer_that_is_not_read_harms_nobody() -> None:
    async with open_pair() as pair:
        response, peer = await pair.exchange(OK + b"content-length: 99999999\r\n\r\n")
        peer.writer.write(b"x" * 20 * MEGABYTE)
        await stalled(peer)
        response.close()
        assert await response.read()
        response.release()
        with pytest.raises(ConnectionLost):
            await read_all(response)
        await peer.closed()
