"""A Redis for the tests of the scripts: each test may empty it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.processes import RedisServer


@pytest.fixture(scope="package")
def room_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for this folder; `open_bench` empties it."""
    with RedisServer(tmp_path_factory.mktemp("room-redis")) as server:
        yield server
