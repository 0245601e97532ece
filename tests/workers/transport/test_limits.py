"""What a server may send without a byte of a body, and what counts as an answer at all: bounded, whatever it is."""

from __future__ import annotations

import asyncio
import tracemalloc
from contextlib import suppress

import pytest

from tests.support.peers import Peer
from tests.workers.transport.stage import (
    MEGABYTE,
    OK,
    chunked,
    counted,
    on_both_loops,
    open_pair,
    read_all,
    within,
)
from workers.transport import base
from workers.transport.base import InvalidAnswer, Response

CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"


async def assert_refused(peer: Peer, response: Response, piece: bytes) -> None:
    """Send pieces until the answer is over: refused, and held by nobody."""
    assert await within(asyncio.create_task(response.read())) == b"hello"
    tracemalloc.start()
    sent = 0
    try:
        with suppress(ConnectionError):
            while not response.is_over and sent < 64 * MEGABYTE:
                await peer.send(piece)
                sent += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    with pytest.raises(InvalidAnswer):
        await read_all(response)
    assert peak < 4 * MEGABYTE
    await peer.closed()


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"0\r\nx-a: ", b"y" * 10_000),
        (b"0\r\n", b"y" * 10_000),
        (b"0\r\n", b"x-a: b\r\n" * 1000),
        (b"5;", b"y" * 10_000),
        (b"5;a=", b"y" * 10_000),
    ],
    ids=["a trailer's value", "a trailer's name", "trailers", "an extension's name", "an extension's value"],
)
@on_both_loops
async def test_what_never_ends_behind_a_chunk_is_refused_and_not_held(start: bytes, piece: bytes) -> None:
    async with open_pair() as pair:
        response, peer = await pair.exchange(CHUNKED + start)
        await assert_refused(peer, response, piece)


@on_both_loops
async def test_long_trailers_and_extensions_that_end_are_read() -> None:
    half = b"y" * (base.MAX_HEAD_BYTES // 2)
    async with open_pair() as pair:
        extended = CHUNKED + b"5;" + half + b"\r\nworld\r\n5;" + half + b"\r\nagain\r\n0\r\n\r\n"
        response, peer = await pair.exchange(extended)
        assert await read_all(response) == b"helloworldagain"
        response, _ = await pair.exchange(chunked(b"hello", trailer=b"x-a: " + half + b"\r\n"), peer)
        assert await read_all(response) == b"hello"
        assert pair.server.accepted == 1


@pytest.mark.parametrize("status", [b"199", b"104", b"150", b"000", b"099", b"101"])
@on_both_loops
async def test_an_interim_answer_that_none_need_follow_is_refused(status: bytes) -> None:
    async with open_pair() as pair:
        call = pair.post()
        peer = await pair.server.accept()
        await peer.serve(b"HTTP/1.1 %b x\r\ncontent-length: 0\r\n\r\n" % status)
        with pytest.raises(InvalidAnswer):
            await within(call)
        await peer.closed()


@on_both_loops
async def test_interim_answers_before_the_real_one_are_skipped() -> None:
    interim = b"HTTP/1.1 102 Processing\r\n\r\n" * 100
    async with open_pair() as pair:
        response, _ = await pair.exchange(interim + counted(b"yes"))
        assert await read_all(response) == b"yes"


@pytest.mark.parametrize(("count", "is_read"), [(1500, True), (3000, False)])
@on_both_loops
async def test_the_shortest_headers_count_as_what_they_become(count: int, is_read: bool) -> None:
    fields = b"".join(b"%x:\r\n" % number for number in range(count))
    async with open_pair() as pair:
        call = pair.post()
        peer = await pair.server.accept()
        await peer.serve(b"HTTP/1.1 200 OK\r\n" + fields + b"content-length: 3\r\n\r\nyes")
        if is_read:
            assert await read_all(await within(call)) == b"yes"
        else:
            with pytest.raises(InvalidAnswer):
                await within(call)
