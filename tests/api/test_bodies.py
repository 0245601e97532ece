"""What is bounded before a body is parsed: how many values it holds, and how many large ones are parsed at once."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from api.bodies import LARGE_AT_ONCE, MAX_VALUES, PARSE_IN_THREAD_BYTES, Bodies, check_values
from api.exchange import Exchange, Message
from api.record import RequestRecord
from shared.errors import CapacityError, InvalidRequest
from tests.support.asynchronous import asynchronous
from tests.support.rooms import settings_of
from tests.support.waiting import wait_until

MANY = MAX_VALUES + 1


@pytest.mark.parametrize(
    "bomb",
    [
        b'{"x":[' + b"{}," * MANY + b"{}]}",
        b'{"x":[' + b"[]," * MANY + b"[]]}",
        b'{"x":' + b"[" * MANY + b"]" * MANY + b"}",
        b'{"x":[' + b"1," * MANY + b"1]}",
        b'{"x":[' + b'"",' * MANY + b'""]}',
        b'{"x":["\\\\",' + b"1," * MANY + b'"\\""]}',
        b'{"x":[' + b'"a' * 10 + b"1," * MANY + b"1]}",
    ],
    ids=["objects", "lists", "depth", "numbers", "strings", "numbers between odd strings", "numbers behind odd quotes"],
)
def test_too_many_values_are_refused_before_they_are_parsed(bomb: bytes) -> None:
    with pytest.raises(InvalidRequest, match=f"more than {MAX_VALUES} JSON values") as caught:
        check_values(bomb)
    assert (caught.value.status, caught.value.code) == (400, "too_many_values")


@pytest.mark.parametrize("text", ["a,b;" * MANY, '[{"a":"\\' * (MAX_VALUES // 2)], ids=["commas", "JSON in JSON"])
def test_text_may_hold_any_number_of_commas_and_brackets(text: str) -> None:
    check_values(json.dumps({"messages": [{"role": "user", "content": text}]}).encode())


def test_as_many_values_as_are_allowed_are_allowed() -> None:
    check_values(json.dumps([0] * (MAX_VALUES - 1)).encode())


@asynchronous
async def test_few_large_bodies_are_parsed_at_once_and_small_ones_do_not_wait() -> None:
    bodies = Bodies(settings_of({"m": {}}, "redis://h"))
    large, small = b"x" * (PARSE_IN_THREAD_BYTES + 1), b"{}"
    running = 0
    most = 0
    lock, may_end = threading.Lock(), threading.Event()

    def parse(raw: bytes) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        may_end.wait(10)
        with lock:
            running -= 1
        return len(raw)

    tasks = [asyncio.ensure_future(bodies.parse(large, parse)) for _ in range(LARGE_AT_ONCE + 3)]
    await asyncio.to_thread(wait_until, lambda: running == LARGE_AT_ONCE, 5, "the first to be parsed")
    assert await bodies.parse(small, len) == 2
    may_end.set()
    assert await asyncio.gather(*tasks) == [len(large)] * len(tasks)
    assert most == LARGE_AT_ONCE


def an_upload(size: int) -> Exchange:
    """Return a request of that size of which nothing has come yet."""

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * size, "more_body": False}

    async def send(message: Message) -> None:
        raise AssertionError("nothing is answered here")

    headers = [(b"content-length", b"%d" % size)]
    record = RequestRecord("0", "req_0", method="POST", path=b"/", client="?")
    return Exchange({"headers": headers, "state": {"record": record}}, receive, send)


@pytest.mark.parametrize(("limit", "value"), [("PLACE_SECONDS", 0.05), ("MAX_WAITING", 0)])
@asynchronous
async def test_a_large_body_waits_for_its_place_for_so_long_and_behind_so_many(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: float
) -> None:
    bodies = Bodies(settings_of({"m": {}}, "redis://h", large_bodies=1, large_body_bytes=65_536))
    raw, place = await bodies.read(an_upload(100_000), "a")
    assert (len(raw), place is None) == (100_000, False)
    monkeypatch.setattr(f"api.bodies.{limit}", value)
    with pytest.raises(CapacityError) as caught:
        await bodies.read(an_upload(100_000), "b")
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (503, "too_many_large_bodies", 10)
    assert (await bodies.read(an_upload(50_000), "b"))[1] is None
    assert place is not None
    place.give_back()
    monkeypatch.undo()
    assert (await bodies.read(an_upload(100_000), "b"))[1] is not None
