"""A process that begins, or is asked, reads the file that there is now."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml

from shared.catalogue import Catalogue, Source
from shared.redis import RedisClient
from shared.reloading import Reloading
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.waiting import wait_until_async

BACKENDS = [{"url": "http://127.0.0.1:9/v1"}]


def write(path: Path, redis_url: str, *models: str, **more: str) -> None:
    path.write_text(
        yaml.safe_dump({"redis_url": redis_url, "models": {n: {"backends": BACKENDS} for n in models}, **more})
    )


@asynchronous
async def test_what_was_asked_for_before_a_process_listened_is_read_when_it_does(
    tmp_path: Path, room_redis: RedisServer
) -> None:
    path = tmp_path / "a.yaml"
    write(path, room_redis.url, "a")
    catalogue = Catalogue.of(Source(path, {}))
    write(path, room_redis.url, "a", "b")
    client = RedisClient(room_redis.url, "test")
    await client.open()
    reloading = Reloading(catalogue, client, "worker", "w")
    try:
        await reloading.open()
        await wait_until_async(lambda: "b" in catalogue.names, 5, "the file as it is")
    finally:
        await reloading.close()
        await client.close()


@asynchronous
async def test_the_level_of_the_log_follows(
    tmp_path: Path, room_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # put back when the test ends
    path = tmp_path / "a.yaml"
    write(path, room_redis.url, "a")
    client = RedisClient(room_redis.url, "test")
    reloading = Reloading(Catalogue.of(Source(path, {})), client, "worker", "w")
    write(path, room_redis.url, "a", log_level="error")
    assert (await reloading.reload()).changes == {"settings": "log_level"}
    assert logging.getLogger().level == logging.ERROR
    assert logging.getLogger("httpx").level == logging.ERROR
    write(path, room_redis.url, "a")
    await reloading.reload()
    assert logging.getLogger().level == logging.INFO
    assert logging.getLogger("httpx").level == logging.WARNING
