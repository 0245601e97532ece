"""What every transport promises (`workers/transport/base.py`), played over every way to a backend."""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import Callable
from contextlib import closing, suppress
from socket import create_server

import pytest
from pydantic import SecretStr

from shared.backend_settings import BackendSettings
from tests.support.waiting import wait_until_async
from tests.workers.transport.scene import KINDS, Certificates, Http2Side, Kind, Scene, Side, open_scene
from tests.workers.transport.stage import (
    ASK,
    MEGABYTE,
    PATH,
    descriptors,
    descriptors_are,
    on_both_loops,
    read_all,
    within,
)
from workers.transport import base, pool
from workers.transport.base import ConnectFailed, ConnectionLost, InvalidAnswer, Response
from workers.transport.choice import open_transport

by_every_way = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


async def begun(scene: Scene, *parts: bytes) -> tuple[Response, Side]:
    """Return an answer that has its head and some parts."""
    call = scene.post()
    side = await scene.accept()
    await side.ask()
    await side.head()
    for part in parts:
        await side.part(part)
    return await within(call), side


class NoCarrier:
    """A connection that nothing is asked of."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def abort(self) -> None:
        raise AssertionError

    def resume(self) -> None:
        raise AssertionError


def into(taken: list[bytes]) -> Callable[[bytes], bool]:
    """Return a follower that wants all of it."""

    def take(data: bytes) -> bool:
        taken.append(data)
        return True

    return take


async def one_read_more(taken: list[bytes], number: int) -> None:
    await wait_until_async(lambda: len(taken) == number)


async def one_read(response: Response) -> bytes:
    return bytes(await within(asyncio.create_task(response.read())))


@by_every_way
@on_both_loops
async def test_a_request_arrives_with_its_path_its_headers_and_all_of_its_body(
    kind: Kind, certificates: Certificates
) -> None:
    body = os.urandom(MEGABYTE)
    async with open_scene(kind, certificates) as scene:
        call = scene.post(body)
        side = await scene.accept()
        path, headers, seen = await side.ask()
        await side.head(404)
        await side.part(b"gone")
        await side.finish()
        response = await within(call)
        assert (path, seen == body) == ("/v1/chat/completions", True)
        wanted = {"host": scene.server.address, "accept": "x/y", "x-request-id": "req_1", "accept-encoding": "identity"}
        assert wanted.items() <= headers.items()
        assert (response.status, response.headers[b"x-a"]) == (404, b"b")
        assert await read_all(response) == b"gone"


@by_every_way
@on_both_loops
async def test_parts_are_read_as_they_come(kind: Kind, certificates: Certificates) -> None:
    async with open_scene(kind, certificates) as scene:
        response, side = await begun(scene)
        for part in (b"one", b"two", b"three"):
            await side.part(part)
            assert await one_read(response) == part
        assert not response.is_complete
        await side.finish()
        assert await read_all(response) == b""


@by_every_way
@on_both_loops
async def test_a_follower_is_handed_each_part_without_a_turn_of_its_task(
    kind: Kind, certificates: Certificates
) -> None:
    async with open_scene(kind, certificates) as scene:
        response, side = await begun(scene)
        taken: list[bytes] = []
        task = asyncio.create_task(response.follow(into(taken)))
        for number, part in enumerate((b"one", b"two", b"three"), 1):
            await side.part(part)
            await one_read_more(taken, number)
        await side.finish()
        assert (await within(task), taken) == (False, [b"one", b"two", b"three"])


@by_every_way
@on_both_loops
async def test_a_follower_that_has_enough_is_told_so_and_may_go_on(kind: Kind, certificates: Certificates) -> None:
    async with open_scene(kind, certificates) as scene:
        response, side = await begun(scene)
        taken: list[bytes] = []

        def take(data: bytes) -> bool:
            taken.append(data)
            return len(taken) != 1

        task = asyncio.create_task(response.follow(take))
        await side.part(b"one")
        assert await within(task) is True
        await side.part(b"two")
        await side.finish()
        assert await within(asyncio.create_task(response.follow(take))) is False
        assert b"".join(taken) == b"onetwo"


@by_every_way
@on_both_loops
async def test_what_a_follower_raises_ends_the_following_and_nothing_else(
    kind: Kind, certificates: Certificates
) -> None:
    async with open_scene(kind, certificates) as scene:
        response, side = await begun(scene)

        def refuse(data: bytes) -> bool:
            raise ValueError(data)

        task = asyncio.create_task(response.follow(refuse))
        await side.part(b"one")
        with pytest.raises(ValueError, match="one"):
            await within(task)
        taken: list[bytes] = []
        task = asyncio.create_task(response.follow(into(taken)))
        await side.part(b"two")
        await one_read_more(taken, 1)
        await side.finish()
        assert (await within(task), taken) == (False, [b"two"])


@by_every_way
@on_both_loops
async def test_a_follower_gets_what_came_before_the_connection_was_lost(kind: Kind, certificates: Certificates) -> None:
    async with open_scene(kind, certificates) as scene:
        response, side = await begun(scene, b"one")
        taken: list[bytes] = []
        task = asyncio.create_task(response.follow(into(taken)))
        await wait_until_async(lambda: taken == [b"one"])
        await side.part(b"two")
        if kind.http2:  # the library gives up reading when it cannot write its acknowledgement
            await one_read_more(taken, 2)
        side.peer.close()
        with pytest.raises(ConnectionLost):
            await within(task)
        assert taken == [b"one", b"two"]


@on_both_loops
async def test_a_cancelled_follower_is_handed_nothing_more() -> None:
    response = Response(NoCarrier())
    response.start(200, {})
    taken: list[bytes] = []
    task = asyncio.create_task(response.follow(into(taken)))
    await asyncio.sleep(0)
    task.cancel()  # its turn to end has not come yet
    response.feed(b"late")
    response.hand_on()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (taken, await response.read()) == ([], b"late")


@by_every_way
@on_both_loops
async def test_a_whole_answer_leaves_its_connection_for_the_next(kind: Kind, certificates: Certificates) -> None:
    async with open_scene(kind, certificates) as scene:
        _, side = await scene.exchange(body=b"")
        for _ in range(2):
            response, _ = await scene.exchange(side)
            assert await read_all(response) == b"yes"
        assert scene.server.accepted == 1


@by_every_way
@pytest.mark.parametrize("when", ["head", "reused", "body", "unread"])
@on_both_loops
async def test_cancelling_closes_the_servers_side_and_leaves_nothing(
    kind: Kind, when: str, certificates: Certificates
) -> None:
    async with open_scene(kind, certificates) as scene:
        before = descriptors()

        async def call() -> None:
            response = await scene.transport.post(PATH, ASK, b"{}")
            try:
                await (asyncio.Event().wait() if when == "unread" else read_all(response))
            finally:
                response.close()

        side = (await scene.exchange())[1] if when == "reused" else None
        task = asyncio.create_task(call())
        side = side or await scene.accept()
        await side.ask()
        if when in ("body", "unread"):
            await side.head()
            await side.part(b"hello")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(task)
        await side.peer.closed()
        await scene.server.end()
        await descriptors_are(before)


@by_every_way
@on_both_loops
async def test_cancelling_at_any_step_of_the_loop_leaves_nothing(kind: Kind, certificates: Certificates) -> None:
    async with open_scene(kind, certificates) as scene:
        before = descriptors()
        for steps in range(40):
            call = scene.post()
            for _ in range(steps):
                await asyncio.sleep(0)
            call.cancel()
            with suppress(asyncio.CancelledError):
                (await within(call)).close()
        await scene.server.end()
        await descriptors_are(before)


@by_every_way
@on_both_loops
async def test_closing_an_answer_fails_who_waits_for_it_and_tells_the_server(
    kind: Kind, certificates: Certificates
) -> None:
    async with open_scene(kind, certificates) as scene:
        response, side = await begun(scene, b"hello")
        assert await one_read(response) == b"hello"
        waiting = asyncio.create_task(response.read())
        asyncio.get_running_loop().call_soon(response.close)
        with pytest.raises(ConnectionLost):
            await within(waiting)
        assert not response.is_complete
        await side.peer.closed()


@by_every_way
@on_both_loops
async def test_a_released_answer_that_ends_soon_leaves_its_connection_for_the_next(
    kind: Kind, certificates: Certificates
) -> None:
    async with open_scene(kind, certificates) as scene:
        response, side = await begun(scene, b"hello")
        response.release()
        await side.part(b"x" * MEGABYTE)
        await side.finish()
        await wait_until_async(lambda: response.is_complete)
        again, _ = await scene.exchange(side)
        assert await read_all(again) == b"yes"
        assert scene.server.accepted == 1


@by_every_way
@on_both_loops
async def test_a_released_answer_without_an_end_is_closed_and_held_by_nobody(
    kind: Kind, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "TRAILING_SECONDS", 0.2)
    async with open_scene(kind, certificates) as scene:
        response, side = await begun(scene, b"hello")
        response.release()
        with suppress(ConnectionError):
            while not response.is_over:
                await side.part(b"x" * 10_000)
        await side.peer.closed()
        assert not response.is_complete


@by_every_way
@on_both_loops
async def test_a_slow_reader_holds_the_server_back(kind: Kind, certificates: Certificates) -> None:
    sent, stop, limit = 0, asyncio.Event(), 256 * MEGABYTE
    async with open_scene(kind, certificates) as scene:
        response, side = await begun(scene)

        async def send() -> None:
            nonlocal sent
            while sent < limit and not stop.is_set():
                await side.part(b"x" * (1 << 16))
                sent += 1 << 16
            await side.finish()

        sending = asyncio.create_task(send())
        seen = [-1, -2]

        def is_still() -> bool:
            seen[:] = seen[1], sent
            return seen[0] == seen[1] or sending.done()

        await wait_until_async(is_still, what="back-pressure", poll_seconds=0.1)
        assert not sending.done()  # the kernel's buffers are full
        stop.set()
        assert len(await read_all(response)) == sent
        await within(sending)


@by_every_way
@pytest.mark.parametrize("resets", [False, True])
@on_both_loops
async def test_an_answer_that_was_cut_short_is_never_complete(
    kind: Kind, resets: bool, certificates: Certificates
) -> None:
    async with open_scene(kind, certificates) as scene:
        response, side = await begun(scene, b"hello")
        assert await one_read(response) == b"hello"
        (side.peer.reset if resets else side.peer.close)()
        with pytest.raises(ConnectionLost):
            await read_all(response)


@by_every_way
@on_both_loops
async def test_a_request_that_failed_on_a_fresh_connection_does_not_go_out_again(
    kind: Kind, certificates: Certificates
) -> None:
    async with open_scene(kind, certificates) as scene:
        call = scene.post()
        side = await scene.accept()
        await side.ask()
        side.peer.close()
        with pytest.raises(ConnectionLost):
            await within(call)
        assert scene.server.accepted == 1


@by_every_way
@on_both_loops
async def test_a_connection_that_the_server_has_closed_is_not_used(kind: Kind, certificates: Certificates) -> None:
    async with open_scene(kind, certificates) as scene:
        response, side = await scene.exchange()
        await read_all(response)
        side.peer.close()
        await side.peer.closed()  # the client's end has seen it, then
        await scene.exchange()
        assert scene.server.accepted == 2


@by_every_way
@on_both_loops
async def test_a_request_on_a_stale_connection_goes_out_once_more_on_a_fresh_one(
    kind: Kind, certificates: Certificates
) -> None:
    async with open_scene(kind, certificates) as scene:
        _, stale = await scene.exchange()
        call = scene.post(b"the body")
        request = await stale.ask()
        stale.peer.reset()
        fresh = await scene.accept()
        assert await fresh.ask() == request
        await fresh.head()
        await fresh.finish()
        assert await read_all(await within(call)) == b""
        assert scene.server.accepted == 2


@by_every_way
@on_both_loops
async def test_a_request_that_was_lost_late_does_not_go_out_again(
    kind: Kind, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "STALE_SECONDS", -1.0)
    async with open_scene(kind, certificates) as scene:
        _, side = await scene.exchange()
        call = scene.post()
        await side.ask()
        side.peer.reset()
        with pytest.raises(ConnectionLost):
            await within(call)
        assert scene.server.accepted == 1


@by_every_way
@on_both_loops
async def test_a_request_does_not_go_out_again_after_a_part_of_an_answer(
    kind: Kind, certificates: Certificates
) -> None:
    async with open_scene(kind, certificates) as scene:
        _, side = await scene.exchange()
        call = scene.post()
        await side.ask()
        await side.peer.send(b"\0\0\0\4\0\0\0\0\0" if kind.http2 else b"HT")
        side.peer.close()
        with pytest.raises(ConnectionLost):
            await within(call)
        assert scene.server.accepted == 1


@by_every_way
@on_both_loops
async def test_closing_ends_idle_connections_at_once_and_others_with_their_answers(
    kind: Kind, certificates: Certificates
) -> None:
    async with open_scene(kind, certificates) as scene:
        _, idle = await scene.exchange()
        first = scene.post()
        await idle.ask()  # taken; so the next one needs another
        response, busy = await begun(scene, b"hello")
        await idle.head()
        await idle.finish()
        await within(first)
        await wait_until_async(lambda: first.result().is_complete)
        scene.transport.close()
        await idle.peer.closed()
        await busy.finish()
        assert await read_all(response) == b"hello"
        await busy.peer.closed()


@by_every_way
@on_both_loops
async def test_an_idle_connection_is_closed_when_its_time_is_over(
    kind: Kind, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "KEEP_ALIVE_SECONDS", 0.2)
    async with open_scene(kind, certificates) as scene:
        _, side = await scene.exchange()
        await side.peer.closed(2)


@by_every_way
@on_both_loops
async def test_an_endless_head_is_refused_and_not_held(kind: Kind, certificates: Certificates) -> None:
    async with open_scene(kind, certificates) as scene:
        call = scene.post()
        side = await scene.accept()
        await side.ask()
        sent = 0
        tracemalloc.start()
        try:
            with suppress(ConnectionError):
                if not kind.http2:
                    await side.peer.send(b"HTTP/1.1 200 OK\r\nx: ")
                else:  # headers without their end
                    await side.peer.send(b"\0\0\0\1\0\0\0\0\1")
                while not call.done():
                    await side.peer.send(b"y" * 16384 if not kind.http2 else b"\0\x40\0\x09\0\0\0\0\1" + b"\0" * 16384)
                    sent += 16384
            with pytest.raises((InvalidAnswer, ConnectionLost)):
                await within(call)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 * MEGABYTE
        await side.peer.closed()


@by_every_way
@on_both_loops
async def test_an_endless_row_of_interim_answers_is_refused(kind: Kind, certificates: Certificates) -> None:
    async with open_scene(kind, certificates) as scene:
        call = scene.post()
        side = await scene.accept()
        await side.ask()
        with suppress(ConnectionError):
            while not call.done():
                if isinstance(side, Http2Side):
                    await side.http2.head(103, ("link", os.urandom(1000).hex()))
                else:
                    await side.peer.send(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 100)
        with pytest.raises(InvalidAnswer):
            await within(call)
        await side.peer.closed()


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.tls or kind.proxy])
@on_both_loops
async def test_a_server_that_stays_silent_before_the_request_has_a_limit(name: str, certificates: Certificates) -> None:
    kind = KINDS[name]
    silent = Kind(http2=kind.http2, proxy="", tls=False)
    async with open_scene(silent, certificates) as scene:  # its server never answers a handshake, nor a CONNECT
        address = scene.server.address
        backend = BackendSettings(
            url=f"https://{address}/v1",
            http2=kind.http2,
            proxy=SecretStr(f"{kind.proxy}://{address}") if kind.proxy else None,
        )
        transport = open_transport(backend, {}, connect_timeout_seconds=0.2)
        with closing(transport), pytest.raises(ConnectFailed):
            await within(asyncio.create_task(transport.post(PATH, ASK, b"{}")))
        await (await scene.server.accept()).closed()


@by_every_way
@on_both_loops
async def test_where_nobody_listens_the_connection_fails(kind: Kind, certificates: Certificates) -> None:
    with closing(create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    async with open_scene(kind, certificates) as scene:
        backend = BackendSettings(
            url=f"{'https' if kind.tls else 'http'}://127.0.0.1:{port}/v1",
            http2=kind.http2,
            proxy=SecretStr(f"{kind.proxy}://127.0.0.1:{port}") if kind.proxy else None,
        )
        transport = open_transport(backend, {}, connect_timeout_seconds=2)
        with closing(transport), pytest.raises(ConnectFailed):
            await transport.post(PATH, ASK, b"{}")
        assert scene.server.accepted == 0


@by_every_way
@on_both_loops
async def test_proxies_of_the_environment_are_not_used(
    kind: Kind, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:1")
    async with open_scene(kind, certificates) as scene:
        response, _ = await scene.exchange()
        assert await read_all(response) == b"yes"


@pytest.mark.parametrize("kind", [KINDS[name] for name in ("own", "proxy, TLS", "HTTP/2")])
@on_both_loops
async def test_an_answer_may_take_longer_than_connecting(kind: Kind, certificates: Certificates) -> None:
    async with open_scene(kind, certificates, connect_seconds=1) as scene:
        _, side = await scene.exchange()
        loop = asyncio.get_running_loop()
        started, call = loop.time(), scene.post()
        await side.ask()
        await wait_until_async(lambda: loop.time() > started + 1.2)
        await side.head()
        await side.finish()
        assert await read_all(await within(call)) == b""
