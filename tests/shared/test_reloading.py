"""A process that begins, or is asked, reads the file that there is now."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml

from shared import keys
from shared.catalogue import Catalogue, Source
from shared.redis import RedisClient
from shared.reloading import Reloading
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.waiting import wait_until_async

BACKENDS = [{"url": "http://127.0.0.1:9/v1"}]


def write(path: Path, redis_url: str, *models: str, **more: str) -> None:
    given = {"redis_url": redis_url, "models": {name: {"backends": BACKENDS} for name in models}, **more}
    path.write_text(yaml.safe_dump(given))


@asynccontextmanager
async def begun(path: Path, redis: RedisServer) -> AsyncIterator[tuple[Catalogue, Reloading, RedisClient]]:
    """Give what a process has read of a file with one model, not listening yet."""
    write(path, redis.url, "a")
    catalogue = Catalogue.of(Source(path, {}))
    client = RedisClient(redis.url, "test")
    await client.open()
    reloading = Reloading(catalogue, client, "worker", "w")
    try:
        yield catalogue, reloading, client
    finally:
        await reloading.close()
        await client.close()


@asynchronous
async def test_what_was_asked_for_before_a_process_listened_is_read_when_it_does(
    tmp_path: Path, room_redis: RedisServer
) -> None:
    path = tmp_path / "a.yaml"
    async with begun(path, room_redis) as (catalogue, reloading, _):
        write(path, room_redis.url, "a", "b")
        await reloading.open()
        await wait_until_async(lambda: "b" in catalogue.names, 5, "the file as it is")


@asynchronous
async def test_what_was_asked_for_while_the_connection_was_away_is_done_once_it_is_back(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    path = tmp_path / "a.yaml"
    async with begun(path, own_redis) as (catalogue, reloading, client):
        await reloading.open()
        await wait_until_async(lambda: not len(reloading._background) and reloading._last == "", 5, "its first looks")
        write(path, own_redis.url, "a", "b")
        own_redis.drop_connections()
        await wait_until_async(lambda: reloading._subscriber.subscribed.is_set() and client.connected.is_set(), 5)
        assert "b" not in catalogue.names, "nobody has asked"
        with own_redis.client() as other:
            other.set(keys.RELOAD_LAST, "1a")
        own_redis.drop_connections()
        await wait_until_async(lambda: "b" in catalogue.names, 5, "the file as it is")


@asynchronous
async def test_the_level_of_the_log_follows(
    tmp_path: Path, room_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # put back when the test ends
    path = tmp_path / "a.yaml"
    async with begun(path, room_redis) as (_, reloading, _):
        write(path, room_redis.url, "a", log_level="error")
        assert (await reloading.reload()).changes == {"settings": "log_level"}
        assert logging.getLogger().level == logging.ERROR
        assert logging.getLogger("httpx").level == logging.ERROR
        write(path, room_redis.url, "a")
        await reloading.reload()
        assert logging.getLogger().level == logging.INFO
        assert logging.getLogger("httpx").level == logging.WARNING
