"""Kept-alive connections: which one goes first, which are stale, when a request goes out twice."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from tests.support.peers import SECONDS
from tests.support.waiting import wait_until_async
from tests.workers.transport.stage import (
    ASK,
    MEGABYTE,
    OK,
    PATH,
    counted,
    on_both_loops,
    open_pair,
    read_all,
    within,
)
from workers.transport import pool
from workers.transport.base import ConnectionLost, Response


@on_both_loops
async def test_the_connection_that_was_used_last_goes_first() -> None:
    async with open_pair() as pair:
        calls = [pair.post(), pair.post()]
        older, newer = await pair.server.accept(), await pair.server.accept()
        for peer in (older, newer):
            await peer.serve(counted(b"1"))
        for response in await within(asyncio.ensure_future(asyncio.gather(*calls))):
            assert await read_all(response) == b"1"
        await pair.exchange(counted(b"2"), newer)
        first = pair.post()
        await newer.request()
        second = pair.post()
        await older.serve(counted(b"for the second"))
        await newer.send(counted(b"for the first"))
        assert await read_all(await within(first)) == b"for the first"
        assert await read_all(await within(second)) == b"for the second"
        assert pair.server.accepted == 2


@on_both_loops
async def test_an_idle_connection_is_closed_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "KEEP_ALIVE_SECONDS", 0.3)
    loop = asyncio.get_running_loop()
    async with open_pair() as pair:
        calls = [pair.post(), pair.post()]
        peers = [await pair.server.accept(), await pair.server.accept()]
        for peer in peers:
            await peer.serve(counted(b"1"))
        for call in calls:
            await within(call)
        first_idle = loop.time()
        while loop.time() < first_idle + 0.2:  # the one that is used stays
            await pair.exchange(counted(b"2"), peers[1])
        last_used = loop.time()
        await peers[0].closed(2)
        assert loop.time() > first_idle + 0.25
        await peers[1].closed(2)
        assert loop.time() > last_used + 0.25
        await pair.exchange(counted(b"3"))
        assert pair.server.accepted == 3


@on_both_loops
async def test_closing_ends_idle_connections_at_once_and_others_with_their_answers() -> None:
    async with open_pair() as pair:
        calls = [pair.post(), pair.post()]
        busy, idle = await pair.server.accept(), await pair.server.accept()
        await busy.request()
        await idle.serve(counted(b"1"))
        await wait_until_async(lambda: any(call.done() for call in calls))
        pair.transport.close()
        await idle.closed()
        await busy.send(counted(b"2"))
        assert sorted([await read_all(await within(call)) for call in calls]) == [b"1", b"2"]
        await busy.closed()


@on_both_loops
async def test_a_connection_that_the_server_has_closed_is_not_used() -> None:
    async with open_pair() as pair:
        response, peer = await pair.exchange(counted(b"1"))
        await read_all(response)
        peer.close()
        await peer.closed()  # the client's end has seen it, then
        await pair.exchange(counted(b"2"))


@on_both_loops
async def test_a_request_on_a_stale_connection_goes_out_once_more_on_a_fresh_one() -> None:
    async with open_pair() as pair:
        calls = [pair.post(), pair.post()]
        idle, stale = await pair.server.accept(), await pair.server.accept()
        for peer in (idle, stale):
            await peer.serve(counted(b"1"))
        for call in calls:
            await within(call)
        call = pair.post(b"the body")
        request = await stale.request()
        stale.close()
        fresh = await pair.server.accept()  # not the other idle one, which may be as stale
        assert await fresh.serve(counted(b"2")) == request
        assert await read_all(await within(call)) == b"2"
        assert pair.server.accepted == 3


@pytest.mark.parametrize("resets", [False, True])
@on_both_loops
async def test_a_request_goes_out_twice_at_most(resets: bool) -> None:
    async with open_pair() as pair:
        _, peer = await pair.exchange(counted(b"1"))
        call = pair.post()
        for _ in range(2):
            await peer.request()
            (peer.reset if resets else peer.close)()
            peer = await pair.server.accept() if pair.server.accepted == 1 else peer
        with pytest.raises(ConnectionLost):
            await within(call)
        assert pair.server.accepted == 2


@on_both_loops
async def test_a_request_that_failed_on_a_fresh_connection_does_not_go_out_again() -> None:
    async with open_pair() as pair:
        call = pair.post()
        peer = await pair.server.accept()
        await peer.request()
        peer.close()
        with pytest.raises(ConnectionLost):
            await within(call)
        assert pair.server.accepted == 1


@pytest.mark.parametrize("heard", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", OK])
@on_both_loops
async def test_a_request_does_not_go_out_again_after_a_byte_of_an_answer(heard: bytes) -> None:
    async with open_pair() as pair:
        _, peer = await pair.exchange(counted(b"1"))
        call = pair.post()
        await peer.serve(heard)
        peer.close()
        with pytest.raises(ConnectionLost):
            await within(call)
        assert pair.server.accepted == 1


@on_both_loops
async def test_a_request_that_was_lost_late_does_not_go_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "STALE_SECONDS", 0.05)
    async with open_pair() as pair:
        _, peer = await pair.exchange(counted(b"1"))
        call = pair.post()
        await peer.request()
        asyncio.get_running_loop().call_later(0.2, peer.close)
        with pytest.raises(ConnectionLost):
            await within(call)
        assert pair.server.accepted == 1


@pytest.mark.parametrize(
    "behind",
    [
        b"garbage",
        counted(b"evil"),
        OK,  # the start of an answer that ends after the next request
        b"H",
        b"HTTP/1.1 100 Continue\r\n",
    ],
)
@pytest.mark.parametrize("apart", [False, True])
@on_both_loops
async def test_bytes_behind_an_answer_are_never_taken_for_the_next_one(behind: bytes, apart: bool) -> None:
    async with open_pair() as pair:
        call = pair.post()
        peer = await pair.server.accept()
        await peer.serve(counted(b"good") + (b"" if apart else behind))
        assert await read_all(await within(call)) == b"good"
        if apart:
            await peer.send(behind)
            await peer.closed()
        call = pair.post()
        fresh = await pair.server.accept()
        await fresh.serve(counted(b"next"))
        assert await read_all(await within(call)) == b"next"
        await peer.closed()


@pytest.mark.parametrize("size", [10, MEGABYTE])
@on_both_loops
async def test_a_caller_who_asks_at_once_is_not_given_a_spoilt_connection(size: int) -> None:
    async with open_pair() as pair:

        async def both() -> Response:
            await read_all(await pair.transport.post(PATH, ASK, b""))
            return await pair.transport.post(PATH, ASK, b"x" * size)

        call = asyncio.create_task(both())
        spoilt = await pair.server.accept()
        await spoilt.serve(counted(b"good") + b"garbage")
        _, body = await (await pair.server.accept()).serve(counted(b"next"))
        assert body == b"x" * size
        assert await read_all(await within(call)) == b"next"


@pytest.mark.parametrize(("over_tls", "status"), [(False, 413), (False, 200), (True, 413)])
@on_both_loops
async def test_an_answer_before_the_request_was_sent_costs_the_connection(
    over_tls: bool, status: int, trusted: ssl.SSLContext
) -> None:
    async with open_pair(trusted if over_tls else None) as pair:
        call = pair.post(b"x" * MEGABYTE * 30)
        peer = await pair.server.accept()
        await peer.head()
        peer.writer.write(counted(b"early", start=b"HTTP/1.1 %d x\r\n" % status))
        response = await within(call)
        assert (response.status, await read_all(response)) == (status, b"early")
        call = pair.post()
        fresh = await pair.server.accept()
        await fresh.serve(counted(b"next"))
        assert await read_all(await within(call)) == b"next"
        await peer.closed(SECONDS)


@on_both_loops
async def test_a_refusal_that_came_before_the_connection_was_reset_is_read() -> None:
    async with open_pair() as pair:
        call = pair.post(b"x" * MEGABYTE * 30)
        peer = await pair.server.accept()
        await peer.head()
        peer.writer.write(counted(b"too large", start=b"HTTP/1.1 413 Content Too Large\r\n"))
        peer.close()  # with much of the request unread, so that the client's kernel is told of a reset
        response = await within(call)
        assert (response.status, await read_all(response)) == (413, b"too large")
