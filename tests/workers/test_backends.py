"""What a job sees of its backend's connection: an answer, or one of our errors."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

import pytest
from pydantic import SecretStr

from shared.backend_settings import BackendSettings
from shared.errors import BackendError, BackendTimeout, BackendUnreachable, BadBackendResponse
from shared.jobs import TakenJob
from shared.kinds import KINDS
from shared.settings import ModelSettings, WorkerSettings
from tests.support.peers import SECONDS, PeerServer, open_server
from tests.support.rooms import a_spec
from tests.workers.transport.stage import (
    OK,
    chunked,
    counted,
    on_both_loops,
    within,
)
from workers.backends import Backends


@dataclass
class Model:
    """One model over one server."""

    server: PeerServer
    backends: Backends

    def call(self, head_seconds: float = SECONDS) -> asyncio.Task[bytes]:
        """Call as a job does; returns all of the answer."""
        job = TakenJob(id="j1", model="m", attempt=b"1.x", spec=a_spec(), body=b'{"messages":[]}', queue_ms=0)
        call = self.backends.call(KINDS[job.spec.kind], job, 0, stream=False, head_seconds=head_seconds)

        async def run() -> bytes:
            async with call as answer:
                return await answer.body(lambda: None)

        return asyncio.create_task(run())


@asynccontextmanager
async def open_model(**settings: Any) -> AsyncIterator[Model]:
    async with open_server() as server:
        backend = BackendSettings(url=f"http://{server.address}/v1", **settings)
        backends = Backends("m", ModelSettings(backends=(backend,)), WorkerSettings(connect_timeout_seconds=1))
        try:
            yield Model(server, backends)
        finally:
            backends.close()


@on_both_loops
async def test_a_job_gets_the_answer_and_the_next_one_its_connection() -> None:
    async with open_model() as model:
        call = model.call()
        peer = await model.server.accept()
        head, body = await peer.serve(counted(b"{}", b"content-encoding: identity"))
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert body == b'{"model":"m","messages":[]}'
        assert await within(call) == b"{}"
        call = model.call()
        await peer.serve(chunked(b"{", b"}"))
        assert await within(call) == b"{}"
        assert model.server.accepted == 1


@on_both_loops
async def test_a_compressed_answer_is_refused_and_its_connection_closed() -> None:
    async with open_model() as model:
        call = model.call()
        peer = await model.server.accept()
        await peer.serve(OK + b"content-length: 9999\r\ncontent-encoding: gzip\r\n\r\n\x1f\x8b")
        with pytest.raises(BadBackendResponse, match="compressed"):
            await within(call)
        await peer.closed()


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", BackendUnreachable),
        (OK, BackendUnreachable),
        (OK + b"content-length: 9\r\n\r\n{", BackendUnreachable),
        (chunked(b"{}")[:-1], BackendUnreachable),
        (b"garbage\r\n\r\n", BadBackendResponse),
        (b"HTTP/1.1 199 x\r\n\r\n{}", BadBackendResponse),
        (b"HTTP/1.1 000 x\r\n\r\n{}", BadBackendResponse),
        (OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n", BadBackendResponse),
        (b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 5\r\n\r\n", BadBackendResponse),
        (b"HTTP/1.1 503 x\r\ncontent-length: 50\r\n\r\n{", BackendError),
    ],
)
@on_both_loops
async def test_every_fault_of_a_server_is_one_of_our_errors(sent: bytes, error: type[Exception]) -> None:
    async with open_model() as model:
        call = model.call()
        peer = await model.server.accept()
        await peer.serve(sent)
        peer.close()
        with pytest.raises(error):
            await within(call)
        await peer.closed()


KEY = "verysecretbackendkey4711"


def refusal_of(body: bytes, *headers: bytes, status: bytes = b"400") -> bytes:
    head = b"HTTP/1.1 %b x\r\ncontent-length: %d\r\n" % (status, len(body))
    return head + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body


async def refused(answer: bytes) -> BackendError:
    """Return the error of a job whose backend answers so."""
    async with open_model(api_key=KEY) as model:
        call = model.call()
        peer = await model.server.accept()
        head, _ = await peer.serve(answer)
        assert KEY.encode() in head
        with pytest.raises(BackendError) as caught:
            await within(call)
        return caught.value


@on_both_loops
async def test_a_backends_own_headers_are_sent_and_never_quoted() -> None:
    headers = {"api-key": SecretStr(KEY), "user-agent": SecretStr("search-team")}
    async with open_model(headers=headers) as model:
        call = model.call()
        peer = await model.server.accept()
        head, _ = await peer.serve(refusal_of(b'{"error":{"message":"no such key: %b"}}' % KEY.encode()))
        with pytest.raises(BackendError) as caught:
            await within(call)
    assert b"\r\napi-key: %b\r\n" % KEY.encode() in head
    assert head.lower().count(b"user-agent: ") == 1
    assert b"\r\nuser-agent: search-team\r\n" in head
    assert caught.value.message == "no such key: [redacted]"


@on_both_loops
async def test_a_refusal_in_plain_text_is_told() -> None:
    error = await refused(refusal_of(b"top_k must be positive\n", b"content-type: text/plain"))
    assert (error.status, error.message) == (400, "top_k must be positive")
    error = await refused(refusal_of(b"Internal Server Error", status=b"500"))
    assert "tell the operator" in error.message


@pytest.mark.parametrize("status", [b"400", b"413", b"422", b"429", b"500", b"503"])
@on_both_loops
async def test_a_backend_that_quotes_its_key_is_not_passed_on(status: bytes) -> None:
    encoded = base64.b64encode(KEY.encode())
    quoted = b'"Incorrect API key provided: %b (%b)"' % (KEY.encode(), encoded)
    body = b'{"error":{"message":%b,"code":"%b","param":"%b"}}' % (quoted, KEY.encode(), KEY.encode())
    wire = (await refused(refusal_of(body, status=status))).to_wire()
    assert b"Incorrect API key provided: [redacted]" in wire
    assert KEY.encode() not in wire
    assert encoded[:-4] not in wire


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ([b"retry-after: 7"], 7, 7),
        ([b"retry-after-ms: 7500", b"retry-after: 60"], 7.5, 7.5),
        ([b"retry-after: {in 40 s}"], 30, 41),
    ],
)
@on_both_loops
async def test_how_long_a_backend_asks_to_wait_is_read_in_every_form(
    headers: list[bytes], low: float, high: float
) -> None:
    date = formatdate(time.time() + 40, usegmt=True).encode()
    sent = [header.replace(b"{in 40 s}", date) for header in headers]
    error = await refused(refusal_of(b"{}", *sent, status=b"429"))
    assert error.retry_after is not None
    assert low <= error.retry_after <= high


@pytest.mark.parametrize("value", [b"", b"soon", b"-1", b"nan", b"Thu, 01 Jan 2015 00:00:00 GMT", b"Thu, 99 Foo"])
@on_both_loops
async def test_a_wait_that_is_none_is_not_told(value: bytes) -> None:
    assert (await refused(refusal_of(b"{}", b"retry-after: " + value, status=b"429"))).retry_after is None


@on_both_loops
async def test_a_head_that_does_not_come_in_time_is_a_timeout_and_closes_the_call() -> None:
    async with open_model() as model:
        call = model.call(head_seconds=0.2)
        peer = await model.server.accept()
        await peer.request()
        with pytest.raises(BackendTimeout):
            await within(call)
        await peer.closed()
        call = model.call(head_seconds=0)
        with pytest.raises(BackendTimeout):
            await within(call)


@on_both_loops
async def test_a_job_that_is_cancelled_closes_its_call() -> None:
    async with open_model() as model:
        call = model.call()
        peer = await model.server.accept()
        await peer.serve(OK + b"content-length: 9\r\n\r\n{")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await within(call)
        await peer.closed()
