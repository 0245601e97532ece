"""The connections to Redis: each caller gets its own reply, whatever happens to others, the server, the socket."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shared.redis import RedisClient, RedisRefused, RedisUnavailable, Subscriber
from tests.support.asynchronous import asynchronous, on_each_loop
from tests.support.processes import RedisServer
from tests.support.waiting import wait_until_async


@asynccontextmanager
async def connected(server: RedisServer) -> AsyncIterator[RedisClient]:
    client = RedisClient(server.url)
    await client.open()
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def measured_loop(lags: list[float]) -> AsyncIterator[None]:
    """Note how late the loop is, every 10 ms."""

    async def measure() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            lags.append(time.monotonic() - before - 0.01)

    task = asyncio.create_task(measure())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def answers(client: RedisClient, word: str) -> bool:
    try:
        return bool(await client.call("ECHO", word) == word.encode())
    except RedisUnavailable:
        return False


@asynchronous
async def test_every_reply_belongs_to_its_caller_when_others_are_cancelled(room_redis: RedisServer) -> None:
    chance = random.Random(7)

    async def caller(client: RedisClient, number: int) -> bool:
        await asyncio.sleep(chance.random() * 0.5)
        future = client.call("ECHO", number)
        if chance.random() < 0.3:
            asyncio.get_running_loop().call_later(chance.random() * 0.003, future.cancel)
        try:
            return bool(await future == str(number).encode())
        except asyncio.CancelledError:
            return True

    async with connected(room_redis) as client:
        assert all(await asyncio.gather(*(caller(client, number) for number in range(10_000))))
        assert await client.call("ECHO", "after") == b"after"


@asynchronous
async def test_an_error_reply_reaches_only_its_caller(room_redis: RedisServer) -> None:
    async with connected(room_redis) as client:
        told = await asyncio.gather(
            client.call("ECHO", 1), client.call("NOSUCH"), client.call("ECHO", 2), return_exceptions=True
        )
        assert (told[0], told[2]) == (b"1", b"2")
        assert isinstance(told[1], RedisRefused)
        assert told[1].kind == "ERR"


@asynchronous
async def test_what_was_said_at_once_runs_in_order(room_redis: RedisServer) -> None:
    async with connected(room_redis) as client:
        await client.call("DEL", "counter")
        replies = await asyncio.gather(*(client.call("INCR", "counter") for _ in range(500)))
        assert replies == list(range(1, 501))
        await client.call("DEL", "counter")


@asynchronous
async def test_a_cut_connection_fails_what_was_under_way_and_comes_back_alone(own_redis: RedisServer) -> None:
    async with connected(own_redis) as client:
        waiting = client.call("BLPOP", "nothing", 0)
        await asyncio.sleep(0)
        await asyncio.to_thread(own_redis.drop_connections)
        with pytest.raises(RedisUnavailable):
            await waiting
        await wait_until_async(lambda: answers(client, "again"), 5)


@asynchronous
async def test_without_a_connection_a_call_fails_at_once(own_redis: RedisServer) -> None:
    async with connected(own_redis) as client:
        first_run = client.run_id
        await asyncio.to_thread(own_redis.kill)

        async def disconnected() -> bool:
            return not client.connected.is_set()

        await wait_until_async(disconnected, 5)
        began = time.monotonic()
        with pytest.raises(RedisUnavailable):
            await client.call("PING")
        assert time.monotonic() - began < 0.1
        await asyncio.to_thread(own_redis.restart)
        await wait_until_async(lambda: answers(client, "again"), 5)
        assert client.run_id != first_run


@on_each_loop
async def test_what_lies_unread_while_this_process_stood_still_is_no_silence(room_redis: RedisServer) -> None:
    async with connected(room_redis) as client:
        sent = client.call("ECHO", "sent")
        await asyncio.sleep(0)
        unsent = client.call("ECHO", "unsent")
        time.sleep(2)  # noqa: ASYNC251  longer than Redis may be silent
        assert [await sent, await unsent] == [b"sent", b"unsent"]


@asynchronous
async def test_a_frozen_server_is_given_up_in_time_and_never_blocks_the_loop(own_redis: RedisServer) -> None:
    lags: list[float] = []
    async with connected(own_redis) as client, measured_loop(lags):
        own_redis.freeze()
        try:
            began = time.monotonic()
            told = await asyncio.gather(*(client.call("ECHO", n) for n in range(100)), return_exceptions=True)
            assert time.monotonic() - began < 2.5
            assert all(isinstance(one, RedisUnavailable) for one in told)
            late = client.call("ECHO", "late")
            with pytest.raises(RedisUnavailable):
                await late
        finally:
            own_redis.thaw()
        await wait_until_async(lambda: answers(client, "thawed"), 5)
    assert max(lags) < 0.5


@asynchronous
async def test_replies_that_come_after_their_time_limit_shift_nothing(own_redis: RedisServer) -> None:
    async with connected(own_redis) as client:
        connection = await client.call("CLIENT", "ID")
        own_redis.freeze()
        try:
            told = await asyncio.gather(*(client.call("ECHO", f"old-{n}") for n in range(50)), return_exceptions=True)
            assert all(isinstance(one, RedisUnavailable) for one in told)
        finally:
            own_redis.thaw()
        replies = await asyncio.gather(*(client.call("ECHO", f"new-{n}") for n in range(50)))
        assert replies == [b"new-%d" % n for n in range(50)]
        assert await client.call("CLIENT", "ID") == connection  # the same socket, with the late replies before these


@asynchronous
async def test_a_connection_that_never_answers_is_replaced(own_redis: RedisServer) -> None:
    async with connected(own_redis) as client:
        connection = await client.call("CLIENT", "ID")
        silent = client.call("BLPOP", "nothing", 0)
        with pytest.raises(RedisUnavailable):
            await silent

        async def replaced() -> bool:
            return await answers(client, "x") and await client.call("CLIENT", "ID") != connection

        await wait_until_async(replaced, 10)


@asynchronous
async def test_a_wrong_password_is_no_endless_wait(room_redis: RedisServer) -> None:
    client = RedisClient(room_redis.url.replace(room_redis.password, "wrong"))
    with pytest.raises(RedisUnavailable) as told:
        await client.open(timeout_seconds=0.5)
    assert "wrong" not in str(told.value)


@asynchronous
async def test_a_closed_client_leaves_nobody_waiting(room_redis: RedisServer) -> None:
    async with connected(room_redis) as client:
        waiting = client.call("BLPOP", "nothing", 0)
        await asyncio.sleep(0)
    with pytest.raises(RedisUnavailable):
        await waiting
    with pytest.raises(RedisUnavailable):
        await client.call("PING")


@asynchronous
async def test_a_subscriber_subscribes_again_and_says_so(own_redis: RedisServer) -> None:
    heard: list[bytes] = []
    times: list[float] = []
    subscriber = Subscriber(own_redis.url, ["one", "two"], heard.append, lambda: times.append(time.monotonic()))
    await subscriber.open()
    try:
        async with connected(own_redis) as client:
            assert await client.call("PUBLISH", "one", b"a\x00\xff") == 1
            assert await client.call("PUBLISH", "two", "b") == 1

            async def all_heard() -> bool:
                return heard == [b"a\x00\xff", b"b"]

            await wait_until_async(all_heard, 5)
            assert len(times) == 1
            await asyncio.to_thread(own_redis.drop_connections)

            async def again() -> bool:
                return len(times) == 2 and await answers(client, "x")

            await wait_until_async(again, 5)
            assert await client.call("PUBLISH", "two", "c") == 1

            async def third_heard() -> bool:
                return heard[2:] == [b"c"]

            await wait_until_async(third_heard, 5)
    finally:
        await subscriber.close()
