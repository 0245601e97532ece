"""A whole answer may be as long as the settings say, and a longer one is told with the setting's name."""

from __future__ import annotations

import asyncio

import pytest

from shared.backend_settings import BackendSettings
from shared.errors import BadBackendResponse
from shared.jobs import TakenJob
from shared.kinds import KINDS
from shared.settings import ModelSettings, WorkerSettings
from tests.support.peers import SECONDS, open_server
from tests.support.rooms import a_spec
from tests.workers.transport.stage import MEGABYTE, counted, on_both_loops, within
from workers.backends import Backends


async def answered(size: int, settings: WorkerSettings) -> int:
    """Return how many bytes of an answer come through."""
    async with open_server() as server:
        backend = BackendSettings(url=f"http://{server.address}/v1")
        backends = Backends("m", ModelSettings(backends=(backend,)), settings)
        spec = a_spec(kind="embeddings", stream=False)
        job = TakenJob(id="j1", model="m", attempt=b"1.x", spec=spec, body=b'{"input":"x"}', queue_ms=0)

        async def run() -> int:
            async with backends.call(KINDS[spec.kind], job, 0, stream=False, head_seconds=SECONDS) as answer:
                return len(await answer.body(lambda: None))

        calling = asyncio.create_task(run())
        peer = await server.accept()
        serving = asyncio.create_task(peer.serve(counted(b"x" * size)))
        try:
            size_read: int = await within(calling)
            return size_read
        finally:
            serving.cancel()
            backends.close()


@on_both_loops
async def test_an_answer_longer_than_the_setting_names_it() -> None:
    settings = WorkerSettings(max_answer_bytes=MEGABYTE)
    assert await answered(MEGABYTE, settings) == MEGABYTE
    with pytest.raises(BadBackendResponse, match=r"more than 1048576 bytes.*worker\.max_answer_bytes") as caught:
        await answered(3 * MEGABYTE, settings)
    assert caught.value.should_retry is False


@on_both_loops
async def test_answers_over_32_mb_come_through_where_they_may() -> None:
    size = 33 * MEGABYTE
    with pytest.raises(BadBackendResponse):
        await answered(size, WorkerSettings())
    assert await answered(size, WorkerSettings(max_answer_bytes=40 * MEGABYTE)) == size
