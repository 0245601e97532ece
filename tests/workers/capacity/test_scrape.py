"""What waits inside an engine, from its own metrics page over real sockets; bad pages are as none, and told once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from shared.backend_settings import BackendSettings
from shared.background import Background
from tests.support.asynchronous import asynchronous
from tests.support.waiting import wait_until_async
from workers.capacity import scrape as module
from workers.capacity.scrape import BadMetrics, Scrape, read_waiting

VLLM = b"""# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_running{engine="0",model_name="m"} 12.0
vllm:num_requests_waiting{engine="0",model_name="a } b"} 3.0
vllm:num_requests_waiting{engine="1",model_name="m"} 1.0 1795000000000
vllm:num_requests_waiting_by_reason{reason="capacity"} 99.0
"""
ANY = tuple(name for names in module.NAMES.values() for name in names)


@asynccontextmanager
async def page(answer: Callable[[asyncio.StreamWriter], None]) -> AsyncIterator[int]:
    """Serve what `answer` writes to each request."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        answer(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()


def whole(body: bytes, status: str = "200 OK") -> Callable[[asyncio.StreamWriter], None]:
    head = b"HTTP/1.1 %b\r\ncontent-length: %d\r\n\r\n" % (status.encode(), len(body))
    return lambda writer: writer.write(head + body)


def test_the_waiting_counts_of_engines_are_read() -> None:
    assert read_waiting(VLLM, ANY) == 4
    assert read_waiting(b"llamacpp:requests_deferred 2\n", ANY) == 2
    assert read_waiting(b'sglang:num_queue_reqs{model_name="m"} 0.0\n', module.NAMES["sglang"]) == 0


@pytest.mark.parametrize("value", [b"NaN", b"-1", b"+Inf", b"1e99", b"many", b""])
def test_what_cannot_be_is_not_believed(value: bytes) -> None:
    with pytest.raises(BadMetrics):
        read_waiting(b'vllm:num_requests_waiting{a="b"} 1\nvllm:num_requests_waiting ' + value, ANY)


def test_a_page_without_the_name_says_which_is_missing() -> None:
    with pytest.raises(BadMetrics, match="there is no sglang:num_queue_reqs"):
        read_waiting(VLLM, module.NAMES["sglang"])


@asynchronous
async def test_a_page_is_asked_for_beside_the_work_and_believed_while_it_is_fresh() -> None:
    background, now = Background(), [time.monotonic()]
    async with page(whole(VLLM)) as port:
        backend = BackendSettings.model_validate({"url": f"http://127.0.0.1:{port}/v1", "metrics": "vllm"})
        scrape = Scrape("m", backend, background)
        assert scrape.look(lambda: now[0]) is None, "nobody waits for it"
        await wait_until_async(lambda: scrape.look(lambda: now[0]) == 4)
        scrape.close()
        assert scrape.look(lambda: now[0] + 10) is None, "what is old says nothing"
    await background.close()


def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + b"x" * (module.MAX_BYTES + 70_000))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (whole(b"", "404 Not Found"), "the answer is 404"),
        (endless, "longer than"),
        (lambda writer: None, "did not come within"),
        (lambda writer: writer.close(), "cannot be fetched"),
        (whole(b"vllm:num_requests_waiting NaN\n"), "is nan"),
    ],
    ids=["404", "endless", "hangs", "closes", "nan"],
)
@asynchronous
async def test_a_bad_page_is_none_and_is_told_once(
    answer: Callable[[asyncio.StreamWriter], None],
    why: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SECONDS", 1.0)
    background = Background()
    async with page(answer) as port:
        url = f"http://127.0.0.1:{port}/v1"
        backend = BackendSettings.model_validate({"url": url, "metrics": "any", "metrics_url": url + "/m?a=b"})
        scrape = Scrape("m", backend, background)
        with caplog.at_level(logging.WARNING, "aqueduct.worker.capacity"):
            for _ in range(2):
                scrape.look(time.monotonic)
                await wait_until_async(lambda: len(background) == 0)
        assert scrape.look(time.monotonic) is None
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith(f"the metrics of m at 127.0.0.1:{port} are ignored: ") and why in line
    await background.close()
