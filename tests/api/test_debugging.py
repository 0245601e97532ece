"""Which tokens' prompts and answers are logged: what an API process knows of it over a real Redis, and when it ends."""

from __future__ import annotations

import threading
import time

import pytest

from api.debugging import DebugTable
from shared.debugging import parsed, switch, switched
from shared.keys import DEBUG
from shared.redis import RedisClient
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.waiting import wait_until_async


class Clock:
    """Redis's clock as an API process knows it; it may be set back."""

    ahead_seconds = 0.0

    def __call__(self) -> float:
        return (time.time() + self.ahead_seconds) * 1000


@asynchronous
async def test_it_ends_to_the_moment_also_while_redis_is_away(module_redis: RedisServer) -> None:
    clock = Clock()
    table = DebugTable(clock)
    assert not table.switched
    client = RedisClient(module_redis.url)
    await client.open()
    with module_redis.client() as plain:
        plain.flushall()
        switch(plain, "a", 2, 100, "anna")
        await table.refresh(client.call)
    await client.close()
    assert table.switched
    found = table.find("a")
    assert found is not None and (found.max_bytes, found.by) == (100, "anna")
    assert table.find("b") is None
    await wait_until_async(lambda: table.find("a") is None, 20, "its end")


@asynchronous
async def test_a_clock_that_is_set_back_makes_it_no_longer(
    module_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    table = DebugTable(clock)
    client = RedisClient(module_redis.url)
    await client.open()
    with module_redis.client() as plain:
        plain.flushall()
        switch(plain, "a", 60, 100, "anna")
        plain.persist(DEBUG)
        plain.hset(DEBUG, "a", b'{"until_ms":%d,"max_bytes":100,"by":"anna"}' % (clock() + 1000))
    await table.refresh(client.call)
    clock.ahead_seconds = -3600
    await table.refresh(client.call)
    await wait_until_async(lambda: table.find("a") is None, 20, "its end")
    await table.refresh(client.call)
    assert table.find("a") is None and not table.switched
    await client.close()
    assert [line.getMessage() for line in caplog.records if line.name == "aqueduct.debug"] == [
        "prompts and answers of a token are logged", "prompts and answers of a token are logged no more",
    ]  # fmt: skip


def test_two_operators_at_once_both_get_what_they_asked_for(module_redis: RedisServer) -> None:
    with module_redis.client() as plain:
        plain.flushall()

    def ask(token: str) -> None:
        with module_redis.client() as own:
            switch(own, token, 60, 100, token)

    threads = [threading.Thread(target=ask, args=(f"t{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with module_redis.client() as plain:
        assert [one.token for one in switched(plain)] == [f"t{number}" for number in range(8)]
        switch(plain, "t3", 0, 0, "")
        assert [one.token for one in switched(plain)] == [f"t{number}" for number in range(8) if number != 3]


def test_what_cannot_be_read_or_is_over_is_left_out_and_no_line_is_longer_than_allowed() -> None:
    good = b'{"until_ms":2000,"max_bytes":9999999,"by":"anna","newer":1}'
    reply = [b"a", good, b"b", b"no json", b"c", b"[]", b"d", b'{"until_ms":"x","max_bytes":1}', b"\xff", good]
    (found,) = parsed(reply, 1000)
    assert (found.token, found.max_bytes) == ("a", 65_536)
    assert parsed(reply, 2000) == []
