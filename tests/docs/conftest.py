"""A running gateway as the pages take it for granted: their models, groups and files, and an operator's token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.models import model
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System

OPERATOR = "on-duty"


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    """The system that the snippets run against."""
    folder = tmp_path_factory.mktemp("docs")
    models = {
        "demo": model(aliases=["small", "llama-3.1-8b"]),
        "llama": {**model(), "backends": [{"model": "demo"}, {"url": "http://10.0.0.7:9000/v1"}]},
        "held": model(max_wait_seconds=600),
    }
    with System(
        folder,
        redis_url=module_redis.url,
        backend_url=demo_backend.url,
        models=models,
        tokens={OPERATOR: {"role": "operator"}, "team-b": {}},
        settings={
            "storage": {"url": f"file://{folder}/files"},
            "groups": [{"name": "research"}, {"name": "interns"}],
        },
    ) as running:
        yield running
