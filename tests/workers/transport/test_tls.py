"""TLS to a backend: who is believed, and what a server gets that is not."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from tests.support.peers import open_server
from tests.workers.transport.stage import (
    ASK,
    OK,
    PATH,
    Pair,
    calling,
    chunked,
    counted,
    descriptors,
    descriptors_are,
    on_both_loops,
    read_all,
    within,
)
from workers.transport.base import ConnectFailed


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@on_both_loops
async def test_tls_connections_are_verified_and_used_again(trusted: ssl.SSLContext, host: str) -> None:
    async with open_server(trusted) as server:
        address = server.address.replace("127.0.0.1", host)
        async with calling(address, scheme="https") as transport:
            pair = Pair(server, transport)
            response, peer = await pair.exchange(counted(b"hello"))
            assert await read_all(response) == b"hello"
            response, _ = await pair.exchange(chunked(b"hel", b"lo"), peer)
            assert await read_all(response) == b"hello"
            call = pair.post()  # and a stale one goes out again here too
            await peer.request()
            peer.close()
            await (await server.accept()).serve(OK + b"\r\nto the end")
            assert await within(asyncio.create_task((await within(call)).read())) == b"to the end"


@pytest.mark.parametrize("why", ["untrusted", "wrong name", "no TLS"])
@on_both_loops
async def test_a_server_that_cannot_be_verified_gets_nothing(
    why: str, request: pytest.FixtureRequest, server_context: ssl.SSLContext
) -> None:
    if why == "wrong name":
        request.getfixturevalue("trusted")
    async with open_server(None if why == "no TLS" else server_context, "0.0.0.0") as server:
        host = "127.0.0.2" if why == "wrong name" else "127.0.0.1"
        before = descriptors()
        async with calling(server.address.replace("0.0.0.0", host), scheme="https") as transport:
            call = asyncio.create_task(transport.post(PATH, ASK, b"secret"))
            if why == "no TLS":
                peer = await server.accept()
                await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                peer.close()
            with pytest.raises(ConnectFailed):
                await within(call)
        await server.end()
        await descriptors_are(before)


@on_both_loops
async def test_a_handshake_without_an_answer_has_a_limit() -> None:
    async with open_server() as server, calling(server.address, scheme="https", connect_seconds=0.2) as transport:
        with pytest.raises(ConnectFailed):
            await transport.post(PATH, ASK, b"")
        await (await server.accept()).closed()
