"""Large prompts and images: answered right, few in memory at once, and nobody small is kept waiting."""

from __future__ import annotations

import re
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import orjson
import pytest

from tests.conftest import MakeSystem
from tests.support.chat import CHAT, chat_body
from tests.support.hashing_backend import HashingBackend, hash_of, hashing_backend
from tests.support.models import model
from tests.support.processes import Process
from tests.support.raw import connect, read_response
from tests.support.system import System

MIB = 1 << 20


@contextmanager
def running(make_system: MakeSystem, backend: HashingBackend, **settings: Any) -> Iterator[System]:
    large = {"backends": [{"url": backend.url}], "concurrency": 32, "timeout_seconds": 60}
    yield make_system(models={"large": large, "demo": model()}, settings=settings)


def images(size: int, seed: int) -> list[dict[str, Any]]:
    """Return one message with ten images, `size` bytes in all as JSON."""
    raw = Random(seed).randbytes(size * 3 // 40)
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + b64encode(raw).decode()}}] * 10
    return [{"role": "user", "content": [{"type": "text", "text": "What is there?"}, *parts]}]


def history(size: int, seed: int) -> list[dict[str, Any]]:
    """Return a long conversation."""
    text = Random(seed).randbytes(1000).hex()
    roles = ("user", "assistant")
    return [{"role": roles[turn % 2], "content": f"{turn} {text}"} for turn in range(size // 2050)]


class Asked:
    """One large request, answered."""

    def __init__(self, system: System, messages: list[dict[str, Any]], *, stream: bool) -> None:
        text = orjson.dumps(messages) + b"}"
        self.wanted = hash_of(text)
        body = b'{"model":"large","stream":%b,"messages":%b' % (b"true" if stream else b"false", text)
        with system.client(timeout=110) as client:
            answer = client.post(CHAT, content=body, headers={"content-type": "application/json"})
        self.status, self.text = answer.status_code, answer.text

    @property
    def is_right(self) -> bool:
        return self.status == 200 and self.wanted in self.text


def peak_bytes(process: Process) -> int:
    """Return the most memory that a process ever had (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


@contextmanager
def small_ones(system: System) -> Iterator[list[float]]:
    """Send small requests to another model meanwhile; yields how long each took."""
    took: list[float] = []
    is_over = threading.Event()

    def send() -> None:
        with system.client() as client:
            while not is_over.is_set():
                began = time.monotonic()
                assert client.post(CHAT, json=chat_body("demo", "small", stream=False)).status_code == 200
                took.append(time.monotonic() - began)
                is_over.wait(0.02)

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        try:
            yield took
        finally:
            is_over.set()
            sending.result(30)


FORMS = [(images, False), (images, True), (history, True), (history, False)]


def bound_of(size: int, places: int) -> int:
    """Return how much memory a process may take for large bodies: each is there as text, as objects and as a copy."""
    return places * size * 3 + 32 * MIB


@pytest.mark.parametrize(
    ("count", "size"),
    [(6, 8 * MIB), pytest.param(12, 40 * MIB, marks=[pytest.mark.long, pytest.mark.timeout(400)])],
)
def test_many_large_requests_at_once_are_answered_right_in_bounded_memory(
    make_system: MakeSystem, count: int, size: int
) -> None:
    places = 2 if size < 40 * MIB else 4
    with hashing_backend() as backend, running(make_system, backend, large_bodies=places) as system:
        assert Asked(system, images(100_000, 0), stream=False).is_right
        processes = [process for process in (system.api, *system.workers) if process]
        before = [peak_bytes(process) for process in processes]
        with small_ones(system) as took, ThreadPoolExecutor(count) as pool:
            asks = [
                pool.submit(Asked, system, form(size, number), stream=stream)
                for number in range(count)
                for form, stream in [FORMS[number % len(FORMS)]]
            ]
            asked = [ask.result(300) for ask in asks]
        grown = [peak_bytes(process) - base for process, base in zip(processes, before, strict=True)]
    assert all(one.is_right for one in asked), [(one.status, one.text[:300]) for one in asked]
    assert max(grown) < bound_of(size, places), [n // MIB for n in grown]
    took.sort()
    assert took[int(len(took) * 0.99)] < 5


def test_a_backend_that_has_a_large_request_holds_no_place_while_it_thinks(make_system: MakeSystem) -> None:
    with (
        hashing_backend(meeting=threading.Barrier(6)) as backend,
        running(make_system, backend, large_bodies=2, large_body_bytes=65_536) as system,
        ThreadPoolExecutor(6) as pool,
    ):
        asked = list(pool.map(lambda n: Asked(system, images(MIB, n), stream=n % 2 > 0), range(6)))
    assert all(one.is_right for one in asked), [(one.status, one.text[:300]) for one in asked]


def test_a_large_request_that_is_tried_again_is_sent_whole_again(make_system: MakeSystem) -> None:
    with (
        hashing_backend(refuse=2) as backend,
        running(make_system, backend, large_bodies=1, large_body_bytes=65_536) as system,
    ):
        assert Asked(system, images(3 * MIB, 1), stream=True).is_right
        assert backend.refuse < 0


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
def test_an_upload_that_waits_for_its_place_is_not_too_slow(make_system: MakeSystem, chunked: bool) -> None:
    settings = {"large_bodies": 1, "large_body_bytes": 65_536, "api": {"body_timeout_seconds": 1}}
    body = orjson.dumps({"model": "large", "messages": images(3 * MIB, 2)})
    with (
        hashing_backend() as backend,
        running(make_system, backend, **settings) as system,
        connect(system) as slow,
        ThreadPoolExecutor(1) as pool,
    ):
        slow.sendall(request(system, body, chunked=False)[: -len(body)] + body[: 2 * MIB])
        waits = pool.submit(sent_at_once, system, request(system, body, chunked=chunked))
        for at in range(8):  # longer than a body may be silent
            time.sleep(0.25)
            slow.sendall(body[2 * MIB + at * 1000 : 2 * MIB + (at + 1) * 1000])
            assert httpx.get(f"{system.base_url}/healthz").status_code == 200
        assert not waits.done()
        slow.sendall(body[2 * MIB + 8000 :])
        assert read_response(slow).startswith(b"HTTP/1.1 200 ")
        assert waits.result(20).startswith(b"HTTP/1.1 200 ")


def request(system: System, body: bytes, *, chunked: bool) -> bytes:
    framing = "transfer-encoding: chunked" if chunked else f"content-length: {len(body)}"
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {system.token}\r\n"
        f"content-type: application/json\r\n{framing}\r\n\r\n"
    )
    pieces = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    parts = [*(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces), b"0\r\n\r\n"] if chunked else [body]
    return head.encode() + b"".join(parts)


def sent_at_once(system: System, whole: bytes) -> bytes:
    with connect(system, 30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(whole)
        return read_response(connection)
