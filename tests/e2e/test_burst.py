"""Bursts wait instead of failing: more requests at one moment than are handled in the time that Redis may be silent."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.conftest import MakeSystem
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.system import System

BURST = 8000


def test_thousands_at_one_moment_are_all_answered(make_system: MakeSystem) -> None:
    system = make_system(
        models={"m": model("tokens=1", concurrency=200, max_queue=BURST)},
        settings={"api": {"max_connections": BURST}, "tenant_share": 1},
    )
    with as_many_files_as_may_be() as files:
        count = min(BURST, files - 500)
        statuses = asyncio.run(burst(system, count))
    assert statuses == Counter({b"200": count})


def test_requests_outlive_an_api_process_that_stood_still(make_system: MakeSystem) -> None:
    """As on a machine that sleeps, or is moved: Redis has answered meanwhile, and nobody has read it."""
    system = make_system(models={"m": model("tokens=3&token_seconds=0.02", concurrency=50)})
    assert system.api is not None
    with system.client(timeout=60) as client, ThreadPoolExecutor(40) as callers:
        client.get("/v1/models")
        asked = [callers.submit(client.post, CHAT, json=chat_body("m", f"{n}", stream=False)) for n in range(400)]
        for _ in range(2):
            time.sleep(0.1)
            system.api.signal(signal.SIGSTOP)
            time.sleep(3)  # longer than Redis may be silent
            system.api.signal(signal.SIGCONT)
        assert Counter(one.result(60).status_code for one in asked) == Counter({200: 400})


@contextmanager
def as_many_files_as_may_be() -> Iterator[int]:
    """Let this process open as many files as the system allows; yields how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def burst(system: System, count: int) -> Counter[bytes]:
    """Send all requests at one moment, each on a connection that is open already; returns how many had which status."""
    host, port = system.base_url.removeprefix("http://").split(":")
    body = json.dumps(chat_body("m", stream=False)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {system.token}\r\nconnection: close\r\n"
    request = f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    connections = list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]()
    for begin in range(0, count, 50):  # more at once would overflow the accept queue
        opening = (asyncio.open_connection(host, int(port)) for _ in range(min(50, count - begin)))
        connections += await asyncio.gather(*opening)
    for _, writer in connections:
        writer.write(request)

    async def status(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        async with asyncio.timeout(120):
            answer = await reader.read()
        writer.close()
        return answer[9:12]

    return Counter(await asyncio.gather(*(status(*one) for one in connections)))
