"""The run of a job of any kind (`workers/completion.py`): over a real Redis and real backends that misbehave."""

from __future__ import annotations

import gc
import json
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import formatdate
from itertools import count
from typing import Any

import pytest

from shared import events
from shared.kinds import KINDS
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, a_spec, open_bench
from tests.support.scripted_server import SSE_HEAD, scripted_server
from tests.support.waiting import wait_until_async
from workers.runner import Runner

NOBODY = "http://127.0.0.1:1/v1"
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    running = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield running
    running.stop()


@asynccontextmanager
async def open_runner(server: RedisServer, url: str, **backend: Any) -> AsyncIterator[tuple[Bench, Runner]]:
    models = {"m": {"backends": [{"url": url, **backend}], "max_attempts": 3}}
    testing = {"sweep_seconds": 60, "renew_seconds": 60}
    worker = {"max_answer_bytes": 1024**2}
    async with open_bench(server.url, models, served=False, testing=testing, worker=worker) as bench:
        runner = Runner(bench.catalogue, ["m"], "w1", hostname="w1@host", clock=count(1).__next__)
        await runner.open()
        try:
            yield bench, runner
        finally:
            await runner.close()


async def last_event(bench: Bench, job_id: str) -> bytes:
    """Wait for a job's end and return the event that told it."""
    log: list[bytes] = []

    async def has_ended() -> bool:
        log[:] = await bench.log(job_id)
        return bool(log) and log[-1][0] in events.ENDINGS

    await wait_until_async(has_ended)
    return log[-1]


async def error_of(bench: Bench, job_id: str) -> dict[str, Any]:
    event = await last_event(bench, job_id)
    assert event[0] == events.FAILED, event
    wire: dict[str, Any] = json.loads(event[1:])
    return wire


@asynchronous
async def test_a_kind_that_this_worker_does_not_know_ends_in_one_clear_error(server: RedisServer) -> None:
    async with open_runner(server, NOBODY) as (bench, runner):
        unknown = await bench.admit(spec=a_spec(kind="sonnets.of.tomorrow"))
        runner.wake("m")
        wire = await error_of(bench, unknown)
        assert (wire["status"], wire["error"]["code"], wire["should_retry"]) == (500, "job_lost", False)
        assert "sonnets.of.tomorrow" in wire["error"]["message"]
        assert len(await bench.log(unknown)) == 1


@asynchronous
async def test_each_lost_worker_takes_a_backend_call_away(server: RedisServer) -> None:
    with scripted_server([BUSY]) as backend:
        async with open_runner(server, backend.url) as (bench, runner):
            fresh = await bench.admit()
            runner.wake("m")
            assert (await error_of(bench, fresh))["status"] == 503
            assert len(backend.requests) == 3
            again = await bench.admit()
            assert await bench.take_ids() == [again]
            await bench.expire_lease(again)
            await bench.sweep()
            runner.wake("m")
            assert (await error_of(bench, again))["status"] == 503
            assert len(backend.requests) == 3 + 2


def plain(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


ODD = [
    (True, False, SSE_HEAD + b'data: {"choices":[null]}\n\ndata: [DONE]\n\n'),
    (True, False, SSE_HEAD + b'data: {"choices":["a",{"index":0,"delta":{"content":"x"}}]}\n\n'),
    (True, False, SSE_HEAD + b'data: {"choices":[{"index":[0],"delta":{"content":[[[]]]}}]}\n\n'),
    (False, True, SSE_HEAD + b'data: {"choices":[{"index":0,"delta":{"tool_calls":5}}]}\n\ndata: [DONE]\n\n'),
    (False, True, SSE_HEAD + b'data: {"choices":[{"index":0,"delta":{"tool_calls":[5]}}]}\n\ndata: [DONE]\n\n'),
    (False, False, plain(b'{"choices":[null]}')),
]


@pytest.mark.parametrize(("stream", "fold", "answer"), ODD)
@asynchronous
async def test_an_odd_answer_is_the_backends_fault_and_no_internal_error(
    server: RedisServer, stream: bool, fold: bool, answer: bytes
) -> None:
    with scripted_server([answer]) as backend:
        async with open_runner(server, backend.url, fold_streams=fold) as (bench, runner):
            job_id = await bench.admit(spec=a_spec(stream=stream))
            runner.wake("m")
            assert (await error_of(bench, job_id))["error"]["code"] == "bad_backend_response"


ANSWER = {
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}
EVENTS = (
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"h"}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":"i"},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}\n\ndata: [DONE]\n\n'
)


@pytest.mark.parametrize(
    ("stream", "answer"),
    [
        (False, [SSE_HEAD, EVENTS]),
        (False, [SSE_HEAD, EVENTS, 60.0]),  # stays open behind its end
        (False, [plain(b": ping\n\n" + EVENTS)]),
        (False, [SSE_HEAD, json.dumps(ANSWER).encode()]),
        (True, [plain(json.dumps(ANSWER).encode())]),
        (True, [plain(json.dumps(ANSWER).encode()).replace(b"200 OK", b"201 Created")]),
        (False, [plain(json.dumps(ANSWER).encode()).replace(b"200 OK", b"299 Odd")]),
        (True, [SSE_HEAD.replace(b"200 OK", b"202 Accepted"), EVENTS]),
    ],
)
@asynchronous
async def test_an_answer_of_the_other_form_is_used(
    server: RedisServer, stream: bool, answer: list[bytes | float]
) -> None:
    with scripted_server(answer) as backend:
        async with open_runner(server, backend.url) as (bench, runner):
            job_id = await bench.admit(spec=a_spec(stream=stream))
            runner.wake("m")
            event = await last_event(bench, job_id)
            assert event[0] == events.COMPLETED, event
            told = events.read_completed(event)
            assert (told.prompt_tokens, told.completion_tokens) == (3, 2)
            if stream:
                said = b"".join(await bench.log(job_id))
                assert b'"chat.completion.chunk"' in said
                assert b"data: [DONE]" in said
                assert b'"finish_reason":"stop"' in said
            else:
                (choice,) = json.loads(told.body)["choices"]
                assert (choice["message"]["content"], choice["finish_reason"]) == ("hi", "stop")


class Stumbling:
    """What reads a stream of a kind whose code has a fault."""

    done = False
    usage = None

    def feed(self, data: bytes) -> bytes:
        raise ValueError("CANARY: " + data.decode())

    def finish(self) -> bytes:
        return b""


def test_code_that_stumbles_over_an_answer_is_told_without_the_answer(
    server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stumbling = replace(KINDS["chat.completions"], name="stumbling", stream=lambda spec, job_id: Stumbling())
    monkeypatch.setitem(KINDS, stumbling.name, stumbling)

    @asynchronous
    async def scenario() -> None:
        with scripted_server([SSE_HEAD + b"data: CANARY\n\n"]) as backend:
            async with open_runner(server, backend.url) as (bench, runner):
                job_id = await bench.admit(spec=a_spec(kind=stumbling.name))
                runner.wake("m")
                assert (await error_of(bench, job_id))["error"]["code"] == "bad_backend_response"

    scenario()
    assert "CANARY" not in caplog.text
    assert "ValueError in test_completion.py" in caplog.text


USAGE = [("9" * 400, 1_000_000_000), ("-5", 0), ("1e300", 0)]


@pytest.mark.parametrize(("number", "counted"), USAGE)
@asynchronous
async def test_absurd_usage_is_clamped_and_the_answer_kept(server: RedisServer, number: str, counted: int) -> None:
    answer = b'{"choices":[{"index":0,"message":{"content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":%b}}'
    with scripted_server([plain(answer % number.encode())]) as backend:
        async with open_runner(server, backend.url) as (bench, runner):
            job_id = await bench.admit(spec=a_spec(stream=False))
            runner.wake("m")
            event = await last_event(bench, job_id)
            assert event[0] == events.COMPLETED
            assert events.read_completed(event).prompt_tokens == counted


def refusal_of(status: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"HTTP/1.1 %b x\r\nconnection: close\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), lines, body)


@asynchronous
async def test_a_spent_budget_is_asked_for_once_and_never_again(server: RedisServer) -> None:
    body = b'{"error":{"message":"You exceeded your quota","code":"insufficient_quota"}}'
    with scripted_server([refusal_of(b"429", body)]) as backend:
        async with open_runner(server, backend.url) as (bench, runner):
            job_id = await bench.admit()
            runner.wake("m")
            wire = await error_of(bench, job_id)
            assert (wire["status"], wire["error"]["code"]) == (429, "insufficient_quota")
            assert wire["should_retry"] is False
            assert len(backend.requests) == 1


@asynchronous
async def test_a_backend_that_says_until_when_to_wait_is_not_asked_again(server: RedisServer) -> None:
    date = formatdate(time.time() + 40, usegmt=True).encode()
    with scripted_server([refusal_of(b"429", b"{}", b"retry-after: " + date)]) as backend:
        async with open_runner(server, backend.url) as (bench, runner):
            job_id = await bench.admit()
            runner.wake("m")
            wire = await error_of(bench, job_id)
            assert 20 < wire["retry_after"] <= 41
            assert len(backend.requests) == 1


@pytest.mark.parametrize(("stream", "fold"), [(True, False), (False, True), (False, False)])
@asynchronous
async def test_an_error_inside_an_answer_that_quotes_the_backends_key_is_told_without_it(
    server: RedisServer, stream: bool, fold: bool
) -> None:
    told = b'{"error":{"message":"bad key my,sk-secret-key","code":400}}'
    answer = SSE_HEAD + b"data: " + told + b"\n\n" if stream or fold else plain(told)
    with scripted_server([answer]) as backend:
        async with open_runner(server, backend.url, fold_streams=fold, api_key="my,sk-secret-key") as (bench, runner):
            job_id = await bench.admit(spec=a_spec(stream=stream))
            runner.wake("m")
            wire = await error_of(bench, job_id)
            assert (wire["status"], wire["error"]["message"]) == (400, "bad key [redacted]")


@asynchronous
async def test_a_failed_answer_is_let_go_of_at_once(server: RedisServer) -> None:
    """What its failure's frames held would stay until the garbage collector looks, a megabyte or more each time."""
    answer = SSE_HEAD + b'data: {"choices":[null],"x":"' + b"a" * 1_000_000 + b'"}\n\n'

    async def fail(bench: Bench, runner: Runner) -> None:
        job_id = await bench.admit(spec=a_spec(stream=True))
        runner.wake("m")
        assert (await error_of(bench, job_id))["error"]["code"] == "bad_backend_response"

    with scripted_server([answer]) as backend:
        async with open_runner(server, backend.url) as (bench, runner):
            await fail(bench, runner)  # what is made once
            gc.collect()
            gc.disable()
            tracemalloc.start()
            try:
                for _ in range(4):
                    await fail(bench, runner)
                held, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
                gc.enable()
    assert held < 500_000


@pytest.mark.parametrize("fold", [True, False])
@asynchronous
async def test_a_stream_that_becomes_one_answer_has_a_limit(server: RedisServer, fold: bool) -> None:
    """Asked for or not: eight times that of a whole answer, as most of a chunk is no text."""
    chunk = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"a" * 100_000 + b'"}}]}\n\n'
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    with scripted_server([SSE_HEAD + chunk * 70 + end], [SSE_HEAD + chunk * 90 + end]) as backend:
        async with open_runner(server, backend.url, fold_streams=fold) as (bench, runner):
            allowed = await bench.admit(spec=a_spec(stream=False))
            runner.wake("m")
            assert (await last_event(bench, allowed))[0] == events.COMPLETED
            endless = await bench.admit(spec=a_spec(stream=False))
            runner.wake("m")
            error = (await error_of(bench, endless))["error"]
            assert error["code"] == "bad_backend_response"
            assert "8388608 bytes" in error["message"] and "worker.max_answer_bytes" in error["message"]
