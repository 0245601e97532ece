"""What a backend is told of a job's lane and token, on the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from shared.backend_settings import BackendSettings
from shared.jobs import TakenJob
from shared.kinds import KINDS
from shared.settings import ModelSettings, WorkerSettings
from tests.support.peers import SECONDS, open_server
from tests.support.rooms import a_spec
from tests.workers.transport.stage import counted, on_both_loops, within
from workers.backends import Backends

OBJECTIVE = b"x-llm-d-inference-objective"
SETTINGS: dict[str, Any] = {
    "headers": {"x-fixed": "1"},
    "by_lane": {"batch": {"headers": {OBJECTIVE.decode(): "sheddable"}, "parameters": {"priority": 10}}},
    "forward": {"token_name": "x-tenant"},
}


async def seen(lane: str, tenant: str, **settings: Any) -> tuple[dict[bytes, bytes], bytes]:
    """Return headers and body of a call."""
    async with open_server() as server:
        backend = BackendSettings.model_validate({"url": f"http://{server.address}/v1", **settings})
        backends = Backends("m", ModelSettings(backends=(backend,)), WorkerSettings())
        spec = a_spec(lane=lane, tenant=tenant)
        job = TakenJob(id="j1", model="m", attempt=b"1.x", spec=spec, body=b'{"messages":[]}', queue_ms=0)

        async def run() -> None:
            async with backends.call(KINDS[spec.kind], job, 0, stream=False, head_seconds=SECONDS) as answer:
                await answer.body(lambda: None)

        try:
            calling = asyncio.create_task(run())
            head, body = await (await server.accept()).serve(counted(b"{}"))
            await within(calling)
        finally:
            backends.close()
    lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:] if line]
    assert len(lines) == len({name for name, _, _ in lines})
    return {name: value for name, _, value in lines}, body


@on_both_loops
async def test_a_jobs_lane_and_token_reach_the_backend_as_the_settings_say() -> None:
    headers, body = await seen("batch", "team-a", **SETTINGS)
    assert (headers[b"x-tenant"], headers[OBJECTIVE], headers[b"x-fixed"]) == (b"team-a", b"sheddable", b"1")
    assert orjson.loads(body) == {"model": "m", "priority": 10, "messages": []}
    headers, body = await seen("default", "team-b", **SETTINGS)
    assert headers[b"x-tenant"] == b"team-b"
    assert OBJECTIVE not in headers
    assert body == b'{"model":"m","messages":[]}'


@on_both_loops
async def test_without_settings_nothing_of_lane_or_token_is_told() -> None:
    headers, _ = await seen("batch", "team-a")
    assert not any(b"team-a" in value or b"batch" in value for value in headers.values())


@pytest.mark.parametrize("tenant", ["a\r\nx-evil: 1", "é"])
@on_both_loops
async def test_a_name_that_is_no_header_is_not_sent(tenant: str) -> None:
    headers, _ = await seen("default", tenant, **SETTINGS)
    assert b"x-tenant" not in headers
    assert b"x-evil" not in headers
