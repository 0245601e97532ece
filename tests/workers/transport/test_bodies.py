"""Our own transport against real sockets: where answers end, and who waits for whom while they come."""

from __future__ import annotations

import asyncio
import os
import ssl
import tracemalloc
from contextlib import suppress

import pytest

from tests.support.peers import Peer
from tests.support.waiting import wait_until_async
from tests.workers.transport.stage import (
    MEGABYTE,
    OK,
    chunked,
    counted,
    on_both_loops,
    open_pair,
    read_all,
    stalled,
    within,
)
from workers.transport import base
from workers.transport.base import ConnectionLost, InvalidAnswer


@pytest.mark.parametrize(
    ("answer", "body", "is_reused"),
    [
        (counted(b"hello"), b"hello", True),
        (counted(b""), b"", True),
        (chunked(b"hel", b"lo"), b"hello", True),
        (chunked(b"hello", trailer=b"x-checksum: 1\r\n"), b"hello", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + counted(b"a"), b"a", True),
        (counted(b"hello", b"upgrade: h2c", b"connection: upgrade"), b"hello", True),
        (counted(b"hello", b"connection: close"), b"hello", False),
        (OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello", False),
        (OK + b"transfer-encoding: chunked\r\ncontent-length: 9\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello", False),
        (b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello", b"hello", True),
        (OK + b"transfer-encoding: chunked\r\n\r\n5   \r\nhello\r\n0\r\n\r\n", b"hello", True),
        (counted(b"hello", b"x-odd: a\x01b"), b"hello", True),
        (counted(b"hello", start=b"HTTP/1.0 200 OK\r\n"), b"hello", False),
        (counted(b"hello", b"connection: keep-alive", start=b"HTTP/1.0 200 OK\r\n"), b"hello", True),
    ],
)
@on_both_loops
async def test_an_answer_ends_where_its_head_says(answer: bytes, body: bytes, is_reused: bool) -> None:
    async with open_pair() as pair:
        for round_ in (1, 2):
            call = pair.post()
            if round_ == 1 or not is_reused:
                peer = await pair.server.accept()
            await peer.serve(answer)
            assert await read_all(await within(call)) == body
            if not is_reused:
                await peer.closed()
        assert pair.server.accepted == (1 if is_reused else 2)


@pytest.mark.parametrize("start", [OK, b"HTTP/1.0 200 OK\r\n", OK + b"connection: close\r\n"])
@on_both_loops
async def test_an_answer_without_a_length_ends_with_its_connection(start: bytes) -> None:
    async with open_pair() as pair:
        call = pair.post()
        peer = await pair.server.accept()
        await peer.serve(start + b"\r\nhello")
        response = await within(call)
        assert await within(asyncio.create_task(response.read())) == b"hello"
        assert not response.is_complete
        await peer.send(b" world")
        peer.close()
        assert await read_all(response) == b" world"


@on_both_loops
async def test_an_answer_without_a_length_that_was_reset_is_not_complete() -> None:
    async with open_pair() as pair:
        response, peer = await pair.exchange(OK + b"\r\nhello")
        assert await within(asyncio.create_task(response.read())) == b"hello"
        peer.reset()
        with pytest.raises(ConnectionLost):
            await read_all(response)


@on_both_loops
async def test_headers_are_of_the_final_answer_alone() -> None:
    async with open_pair() as pair:
        interim = b"HTTP/1.1 103 Early Hints\r\ncontent-encoding: gzip\r\n\r\n"
        response, _ = await pair.exchange(interim + counted(b"", b"Content-TYPE: a/b"))
        assert (response.status, response.headers) == (200, {b"content-length": b"0", b"content-type": b"a/b"})


@on_both_loops
async def test_a_trailer_does_not_change_the_headers() -> None:
    async with open_pair() as pair:
        response, _ = await pair.exchange(chunked(b"hello", trailer=b"content-encoding: gzip\r\n"))
        assert await read_all(response) == b"hello"
        assert response.headers == {b"transfer-encoding": b"chunked"}


@on_both_loops
async def test_blanks_around_a_header_are_none_of_its_value() -> None:
    async with open_pair() as pair:
        response, _ = await pair.exchange(counted(b"", b"content-encoding: \t identity \t "))
        assert response.headers[b"content-encoding"] == b"identity"


@pytest.mark.parametrize(
    "answer",
    [
        b"no HTTP at all\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\nabc",
        OK + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        OK + b"content-length: -3\r\n\r\nabc",
        OK + b"content-length: 99999999999999999999\r\n\r\nabc",
        b"HTTP/1.1 103 Early Hints\r\ncontent-length: 3\r\n\r\nabc" + counted(b"def"),
    ],
)
@on_both_loops
async def test_what_cannot_be_told_to_end_somewhere_is_refused(answer: bytes) -> None:
    async with open_pair() as pair:
        call = pair.post()
        peer = await pair.server.accept()
        await peer.serve(answer)
        with pytest.raises(InvalidAnswer):
            await within(call)
        await peer.closed()
        assert pair.server.accepted == 1


@on_both_loops
async def test_a_broken_chunk_fails_the_reader_after_what_was_good() -> None:
    async with open_pair() as pair:
        start = OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
        response, peer = await pair.exchange(start + b"zz\r\n")
        assert await within(asyncio.create_task(response.read())) == b"hello"
        with pytest.raises(InvalidAnswer):
            await read_all(response)
        await peer.closed()


@pytest.mark.parametrize("line", [b"x: " + b"y" * 1000 + b"\r\n", b"y" * 1000, b"\r\nHTTP/1.1 100 Continue\r\n"])
@on_both_loops
async def test_a_head_without_an_end_is_refused(line: bytes) -> None:
    async with open_pair() as pair:
        call = pair.post()
        peer = await pair.server.accept()
        await peer.serve(b"HTTP/1.1 100 Continue\r\n")
        with suppress(ConnectionError):
            while peer.unsent < 4 * MEGABYTE and not call.done():
                await peer.send(line * 20)
        with pytest.raises(InvalidAnswer):
            await within(call)
        await peer.closed()


@on_both_loops
async def test_a_head_of_thirty_kilobytes_is_read() -> None:
    async with open_pair() as pair:
        lines = [b"x-%d: %b" % (number, b"y" * 1000) for number in range(30)]
        response, _ = await pair.exchange(counted(b"hello", *lines))
        assert await read_all(response) == b"hello"
        assert len(response.headers) == 31


@pytest.mark.parametrize("is_read", [False, True])
@on_both_loops
async def test_a_released_answer_that_ends_soon_leaves_its_connection_for_the_next(is_read: bool) -> None:
    async with open_pair() as pair:
        call = pair.post()
        peer = await pair.server.accept()
        await peer.serve(OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        response = await within(call)
        if is_read:
            assert await within(asyncio.create_task(response.read())) == b"hello"
        response.release()
        await peer.send(b"5\r\nworld\r\n0\r\n\r\n")
        await wait_until_async(lambda: response.is_complete)
        again, _ = await pair.exchange(counted(b"next"), peer)
        assert await read_all(again) == b"next"


@on_both_loops
async def test_an_answer_that_was_paused_leaves_a_connection_that_reads() -> None:
    async with open_pair() as pair:
        response, peer = await pair.exchange(OK + b"content-length: %d\r\n\r\n" % (20 * MEGABYTE))
        peer.writer.write(b"x" * 20 * MEGABYTE)
        await stalled(peer)
        response.release()
        await wait_until_async(lambda: response.is_complete)
        # The last byte is what fills the buffer: the next answer is read all the same.
        body = b"y" * (base.MAX_BUFFERED_BYTES + 1)
        unread, _ = await pair.exchange(counted(body), peer)
        await wait_until_async(lambda: unread.is_complete)
        again, _ = await pair.exchange(counted(b"next"), peer)
        assert await read_all(again) == b"next"
        assert await read_all(unread) == body


@on_both_loops
async def test_a_released_answer_without_an_end_is_closed_and_held_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "TRAILING_SECONDS", 0.3)
    piece, sent = b"x" * (1 << 16), 0
    async with open_pair() as pair:
        response, peer = await pair.exchange(OK + b"transfer-encoding: chunked\r\n\r\n")
        tracemalloc.start()
        try:
            response.release()
            with suppress(ConnectionError):
                while True:
                    await peer.send(b"10000\r\n%b\r\n" % piece)
                    sent += len(piece)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 * MEGABYTE < sent
        assert not response.is_complete
        await pair.exchange(counted(b"next"))
        assert pair.server.accepted == 2


@on_both_loops
async def test_the_limit_of_a_released_answer_does_not_reach_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "TRAILING_SECONDS", 0.1)
    async with open_pair() as pair:
        response, peer = await pair.exchange(OK + b"content-length: 5\r\n\r\n")
        response.release()
        await peer.send(b"hello")
        await wait_until_async(lambda: response.is_complete)
        call = pair.post()
        await peer.request()
        asyncio.get_running_loop().call_later(0.3, peer.writer.write, counted(b"next"))
        assert await read_all(await within(call)) == b"next"


@pytest.mark.parametrize("over_tls", [False, True])
@on_both_loops
async def test_a_slow_reader_holds_the_server_back(over_tls: bool, trusted: ssl.SSLContext) -> None:
    body = os.urandom(MEGABYTE) * 20
    async with open_pair(trusted if over_tls else None) as pair:
        response, peer = await pair.exchange(OK + b"content-length: %d\r\n\r\n" % len(body))
        sending = asyncio.create_task(send_megabytes(peer, body))
        await stalled(peer)
        assert not sending.done()
        parts = []
        while part := await response.read():
            parts.append(part)
            await asyncio.sleep(0)  # a reader with other things to do
        assert max(map(len, parts)) <= MEGABYTE
        assert b"".join(parts) == body
        await within(sending)
        await pair.exchange(counted(b"next"), peer)
        assert pair.server.accepted == 1


async def send_megabytes(peer: Peer, body: bytes) -> None:
    for start in range(0, len(body), MEGABYTE):
        await peer.send(body[start : start + MEGABYTE])
