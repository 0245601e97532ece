"""What a caller sees and a worker keeps when a backend refuses, stalls, cuts or lies, before and after content."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import psutil
import pytest
import redis

from shared import keys
from tests.conftest import MakeSystem
from tests.support.calls import Call, wait_for_content
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer, free_port
from tests.support.scripted_server import SSE_HEAD, Step, scripted_server
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

LIMIT_SECONDS = 1.0
"""Every time limit of these models; a busy machine gets more."""
SLACK_SECONDS = 2.0
FIRST = {"first_token_timeout_seconds": LIMIT_SECONDS}
STALL = {"stall_timeout_seconds": LIMIT_SECONDS}
TOTAL = {"timeout_seconds": LIMIT_SECONDS}
TEXT = (
    b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":"0 "}}]}\n\n'
)


Answers = dict[tuple[str, bool], Call]


@dataclass(frozen=True)
class Fault:
    """A backend's fault and what becomes of a stream and of a plain request: (status, code)."""

    name: str
    behaviour: str
    stream: tuple[int, str] | None = None
    plain: tuple[int, str] | None = None
    mid_stream: str | None = None
    """Code of the error event after content; then `stream` is None."""
    settings: dict[str, Any] | None = None


UNREACHABLE = (503, "backend_unavailable")
TIMEOUT = (504, "backend_timeout")
NONSENSE = (500, "bad_backend_response")
FAULTS = (
    Fault("refuse", "", UNREACHABLE, UNREACHABLE),
    Fault("tls-to-a-plain-port", "", UNREACHABLE, UNREACHABLE),
    Fault("reset", "cut_before=1", UNREACHABLE, UNREACHABLE),
    Fault("status-400", "status=400&code=own", (400, "own"), (400, "own")),
    Fault("status-500", "status=500&code=own", (500, "own"), (500, "own")),
    Fault("status-503", "status=503&code=own", (503, "own"), (503, "own")),
    Fault("html-502", "status=502&error_shape=html", UNREACHABLE, UNREACHABLE),
    Fault("error-in-200", "status=400&code=own&error_in_200=1", (500, "own"), (500, "own")),
    Fault("redirect", "redirect=1", NONSENSE, NONSENSE),
    Fault("nothing-but-silence", "stall=1", TIMEOUT, None, settings=FIRST),
    Fault("silence-for-all-the-time", "stall=1", TIMEOUT, TIMEOUT, settings=TOTAL),
    Fault("drip", "drip=1", TIMEOUT, TIMEOUT, settings=TOTAL),
    Fault("drip-before-the-first-token", "drip=1", TIMEOUT, None, settings=FIRST),
    Fault("cut-at-once", "tokens=6&cut_after=0", UNREACHABLE, UNREACHABLE),
    Fault("end-at-once", "tokens=6&eof_after=0", NONSENSE, None),
    Fault("no-json", "tokens=0&garbage=1", None, NONSENSE),
    Fault("cut", "tokens=6&cut_after=3", None, UNREACHABLE, "backend_unavailable"),
    Fault("end", "tokens=6&eof_after=3", mid_stream="bad_backend_response"),
    Fault("stall", "tokens=6&stall_after=3", None, TIMEOUT, "backend_timeout", settings=STALL),
    Fault("stall-all-the-time", "tokens=6&stall_after=3", None, TIMEOUT, "backend_timeout", settings=TOTAL),
    Fault("too-long", "tokens=600&token_seconds=0.1", None, TIMEOUT, "backend_timeout", settings=TOTAL),
    Fault("garbage", "tokens=6&garbage=1", mid_stream="bad_backend_response"),
    Fault("error-event", "tokens=6&error_after=3&code=own", mid_stream="own"),
)
GOOD = {
    "no-done": "tokens=4&no_done=1",
    "wrong-content-type": "tokens=4&wrong_content_type=1",
    "huge": "huge=2000000",
    "short": "tokens=4",
}
"""Odd but whole answers, which reach the caller."""


def _model(fault: Fault, dead_url: str, tls_url: str) -> dict[str, Any]:
    urls = {"refuse": dead_url, "tls-to-a-plain-port": tls_url}
    backend = {"url": urls[fault.name]} if fault.name in urls else None
    return model(fault.behaviour, backend=backend, **{"max_attempts": 1, **(fault.settings or {})})


@pytest.fixture(scope="module")
def faulty(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, backend: DemoBackend
) -> Iterator[System]:
    dead_url, tls_url = f"http://127.0.0.1:{free_port()}/v1", backend.url.replace("http:", "https:")
    models = {fault.name: _model(fault, dead_url, tls_url) for fault in FAULTS}
    models |= {name: model(behaviour) for name, behaviour in GOOD.items()}
    folder = tmp_path_factory.mktemp("system")
    with System(folder, redis_url=module_redis.url, backend_url=backend.url, models=models) as running:
        yield running


@pytest.fixture(scope="module")
def answers(faulty: System) -> Answers:
    """Every fault, as a stream and as a plain request; all at once, since most of them are waits."""

    def call(wanted: tuple[str, bool]) -> tuple[tuple[str, bool], Call]:
        name, stream = wanted
        return wanted, Call(faulty, name, f"{name}-{stream}", stream=stream).wait(20)

    wanted = [(fault.name, True) for fault in FAULTS if fault.stream or fault.mid_stream]
    wanted += [(fault.name, False) for fault in FAULTS if fault.plain]
    with ThreadPoolExecutor(10) as pool:
        return dict(pool.map(call, wanted))


def assert_nothing_held(rooms: redis.Redis, backend: DemoBackend, *names: str) -> None:
    """The slots are free, and no call to the backend is open."""
    wait_until(lambda: not any(rooms.zcard(keys.running(name)) for name in names), 2, "the slots to be free")
    wait_until(lambda: backend.state()["open_requests"] == 0, 2, "the calls to the backend to be closed")


@pytest.mark.parametrize("fault", [one for one in FAULTS if one.stream], ids=lambda one: one.name)
def test_a_fault_before_content_gives_a_stream_its_status(answers: Answers, fault: Fault) -> None:
    call = answers[fault.name, True]
    assert (call.status, call.assert_one_error()["code"]) == fault.stream
    assert call.seconds < LIMIT_SECONDS + SLACK_SECONDS


@pytest.mark.parametrize("fault", [one for one in FAULTS if one.plain], ids=lambda one: one.name)
def test_a_fault_gives_a_plain_request_its_status(answers: Answers, fault: Fault) -> None:
    call = answers[fault.name, False]
    assert (call.status, call.assert_one_error()["code"]) == fault.plain
    assert call.seconds < LIMIT_SECONDS + SLACK_SECONDS


@pytest.mark.parametrize("fault", [one for one in FAULTS if one.mid_stream], ids=lambda one: one.name)
def test_a_fault_after_content_is_one_error_event(answers: Answers, fault: Fault) -> None:
    call = answers[fault.name, True]
    assert call.status == 200
    assert call.assert_one_error()["code"] == fault.mid_stream
    assert call.content()
    assert call.seconds < LIMIT_SECONDS + SLACK_SECONDS
    choices = [choice for event in call.events() for choice in event.get("choices", ())]
    assert not any(choice.get("finish_reason") for choice in choices), "a failed answer must not look finished"


def test_no_fault_keeps_a_slot_or_a_call(
    answers: Answers, faulty: System, rooms: redis.Redis, backend: DemoBackend
) -> None:
    assert_nothing_held(rooms, backend, *(name for name, _ in answers))


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
def test_odd_but_whole_answers_reach_the_caller(faulty: System, name: str, stream: bool) -> None:
    call = Call(faulty, name, f"good-{name}-{stream}", stream=stream).wait(15)
    if name == "huge":
        assert call.status == 200
        assert not call.errors()
        assert len(call.content()) == 2_000_000
    else:
        call.assert_complete(4)


def test_connections_to_a_backend_do_not_leak(faulty: System, rooms: redis.Redis, backend: DemoBackend) -> None:
    names = [fault.name for fault in FAULTS if fault.settings is None] + ["drip", "stall", "too-long"]

    def several(name: str) -> None:
        for number in range(6):
            Call(faulty, name, f"mixed-{name}-{number}", stream=number % 2 == 0).wait(30)

    def open_to_backend() -> list[Any]:
        port = int(backend.root.rpartition(":")[2])
        found: list[Any] = []
        for worker in faulty.workers:
            found += psutil.Process(worker.pid).net_connections("tcp")
        return [one for one in found if one.raddr[1:] == (port,) and one.status != psutil.CONN_CLOSE]

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(several, names))
    assert len(names) * 6 > 100
    assert_nothing_held(rooms, backend, *names)
    # One at a time, so each model keeps at most one connection to use again: after a clean refusal.
    wait_until(lambda: len(open_to_backend()) <= len(names), 3, "all but one a model to be closed")


# --- what only a server that speaks byte by byte can do ------------------------------------------------------------


SCRIPTS: dict[str, tuple[list[Step], int, str]] = {
    "headers-byte-by-byte": ([x for byte in SSE_HEAD for x in (bytes([byte]), 0.2)], 504, "backend_timeout"),
    "an-endless-header": ([b"HTTP/1.1 200 OK\r\nx: ", *[b"y" * 60_000] * 20], 500, "bad_backend_response"),
    "no-http": ([b"\x00\x01\x02 hello\r\n\r\n"], 500, "bad_backend_response"),
    "a-bad-chunk-size": (
        [SSE_HEAD[:-2] + b"transfer-encoding: chunked\r\n\r\nzz\r\n" + TEXT], 500, "bad_backend_response"
    ),
    "done-without-content": ([SSE_HEAD, b"data: [DONE]\n\n"], 500, "bad_backend_response"),
    "a-line-without-end": ([SSE_HEAD, TEXT, b"data: {", *[b"x" * 1_000_000] * 80], 200, "bad_backend_response"),
    "a-length-it-does-not-keep": (
        [SSE_HEAD[:-2] + b"content-length: 9999\r\n\r\n", TEXT], 200, "backend_unavailable"
    ),
    "half-an-event": ([SSE_HEAD, TEXT, b'data: {"id":"x"\n\ndata: [DONE]\n\n'], 200, "bad_backend_response"),
    "comments-for-ever": ([SSE_HEAD, TEXT, *cast(list[Step], [b": ping\n\n", 0.2]) * 40], 200, "backend_timeout"),
}  # fmt: skip
"""What a server that knows no HTTP sends, and the status and code that the caller of a stream gets."""


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A gateway with a model for each script, each behind its own server."""
    with contextlib.ExitStack() as servers:
        redis_url = servers.enter_context(RedisServer(tmp_path_factory.mktemp("redis"))).url
        limits = {**FIRST, **STALL, "timeout_seconds": 2 * LIMIT_SECONDS}
        models = {
            name: model(backend={"url": servers.enter_context(scripted_server(script)).url}, max_attempts=1, **limits)
            for name, (script, _, _) in SCRIPTS.items()
        }
        with System(tmp_path_factory.mktemp("system"), redis_url=redis_url, backend_url="", models=models) as running:
            yield running


@pytest.mark.parametrize("name", SCRIPTS)
def test_broken_http_ends_in_one_error(scripted: System, name: str) -> None:
    _, status, code = SCRIPTS[name]
    call = Call(scripted, name, name).wait(10)
    error = call.assert_one_error()
    assert (call.status, error["code"]) == (status, code)
    assert call.seconds < 2 * LIMIT_SECONDS + SLACK_SECONDS


def test_a_backend_that_takes_no_connection_is_given_up(make_system: MakeSystem) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        url = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        with contextlib.ExitStack() as fillers:
            for _ in range(3):  # what does not fit into the backlog is not answered at all
                filler = fillers.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(full.getsockname())
            models = {"full": model(backend={"url": url}, max_attempts=1)}
            system = make_system(models=models, settings={"worker": {"connect_timeout_seconds": LIMIT_SECONDS}})
            call = Call(system, "full", "no-connection", stream=False).wait(10)
    assert (call.status, call.assert_one_error()["code"]) == UNREACHABLE
    assert LIMIT_SECONDS <= call.seconds < LIMIT_SECONDS + SLACK_SECONDS


def test_a_plain_request_whose_client_has_given_up_is_never_started(
    make_system: MakeSystem, demo_backend: DemoBackend
) -> None:
    models = {"one-slot": model("tokens=30&token_seconds=0.1", concurrency=1)}
    system = make_system(models=models)
    blocker = Call(system, "one-slot", "blocks")
    wait_for_content(blocker)
    with system.client() as client:
        began = time.monotonic()
        body = chat_body("one-slot", "given-up")
        answer = client.post(CHAT, json=body, headers={"x-stainless-read-timeout": "1"})
        seconds = time.monotonic() - began
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "queue_timeout"
    assert seconds < 1 + 1 + SLACK_SECONDS  # a sweep comes once a second
    blocker.wait(10).assert_complete(30)
    Call(system, "one-slot", "after", stream=False)
    wait_until(lambda: demo_backend.seen("after"), 10, "the next job to run")
    assert not demo_backend.seen("given-up")
