"""A site of batches for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.batch_site import Site
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Everything but workers, which the test starts."""
    with RedisServer(tmp_path / "redis") as redis, DemoBackend(tmp_path) as backend:
        made = Site(tmp_path, redis, backend)
        try:
            yield made
        finally:
            made.stop()
