"""Generated answers, cut at any place: our own transport reads them as they were sent, or says that they were not."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.asynchronous import LOOPS
from tests.support.peers import SECONDS, Peer, open_server
from tests.support.waiting import wait_until_async
from tests.workers.transport.stage import (
    OK,
    TEST_SECONDS,
    Pair,
    calling,
    read_all,
    within,
)
from workers.transport.base import ConnectionLost, InvalidAnswer, Response

_token = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map("x-".__add__)
_value = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30)
_headers = st.dictionaries(_token, _value, max_size=5)
_bodies = st.lists(st.one_of(st.binary(min_size=1, max_size=40), st.binary(min_size=300, max_size=5000)), max_size=5)
_cuts = st.lists(st.floats(0, 1), max_size=8)


@dataclass(frozen=True)
class Answer:
    """A valid answer as bytes, and what a reader must make of it."""

    raw: bytes
    status: int
    headers: dict[bytes, bytes]
    body: bytes
    cuts: list[float]

    def pieces(self, end: int) -> Iterator[bytes]:
        places = sorted({0, end, *(int(cut * end) for cut in self.cuts)})
        return (self.raw[start:stop] for start, stop in itertools.pairwise(places))


@st.composite
def answers(draw: st.DrawFn, framings: tuple[str, ...]) -> Answer:
    framing, parts = draw(st.sampled_from(framings)), draw(_bodies)
    status, headers = draw(st.sampled_from([200, 201, 400, 404, 429, 500, 503])), draw(_headers)
    interim = b"".join(
        b"HTTP/1.1 %d x\r\n%b\r\n" % (draw(st.sampled_from([100, 102, 103])), _lines(draw(_headers)))
        for _ in range(draw(st.integers(0, 2)))
    )
    body, wire = b"".join(parts), b"".join(parts)
    if framing == "counted":
        headers["content-length"] = str(len(body))
    elif framing == "chunked":
        headers["transfer-encoding"] = "chunked"
        names = [draw(st.sampled_from(["", ";a=b", ";x"])).encode() for _ in parts]
        wire = b"".join(b"%X%b\r\n%b\r\n" % (len(p), n, p) for p, n in zip(parts, names, strict=True))
        wire += b"0\r\n" + draw(st.sampled_from([b"", b"x-end: 1\r\n"])) + b"\r\n"
    raw = interim + b"HTTP/1.1 %d \r\n" % status + _lines(headers) + b"\r\n" + wire
    return Answer(raw, status, {n.encode(): v.encode() for n, v in headers.items()}, body, draw(_cuts))


def _lines(headers: dict[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


async def send_in_pieces(peer: Peer, answer: Answer, end: int | None = None) -> None:
    await peer.request()
    for piece in answer.pieces(len(answer.raw) if end is None else end):
        await peer.send(piece)
        for _ in range(3):  # so that the client's turn comes in between, and most pieces arrive alone
            await asyncio.sleep(0)


async def assert_reads(response: Response, answer: Answer) -> None:
    assert (response.status, response.headers) == (answer.status, answer.headers)
    assert await read_all(response) == answer.body


@pytest.fixture(scope="module", params=LOOPS)
def example(request: pytest.FixtureRequest) -> Iterator[Callable[[Callable[[Pair], Coroutine[Any, Any, None]]], None]]:
    """Run many short examples over one loop and one server, each with a client of its own."""
    complaints: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
        opened = open_server()
        server = runner.run(opened.__aenter__())

        async def one(test: Callable[[Pair], Coroutine[Any, Any, None]]) -> None:
            before = server.accepted
            async with asyncio.timeout(TEST_SECONDS), calling(server.address) as transport:
                await test(Pair(server, transport))
            assert server.accepted == before + 1

        yield lambda test: runner.run(one(test))
        runner.run(opened.__aexit__(None, None, None))
    assert not complaints


@settings(max_examples=60, deadline=None)
@given(
    first=answers(("counted", "chunked")), then=answers(("counted", "chunked", "endless")), reads_first=st.booleans()
)
def test_two_answers_cut_anywhere_are_read_as_they_were_sent(
    example: Callable[..., None], first: Answer, then: Answer, reads_first: bool
) -> None:
    async def test(pair: Pair) -> None:
        call = pair.post()
        peer = await pair.server.accept()
        sending = asyncio.create_task(send_in_pieces(peer, first))
        response = await within(call)
        if reads_first:
            await assert_reads(response, first)
        await within(sending)
        await wait_until_async(lambda: response.is_complete, SECONDS, poll_seconds=0)
        call = pair.post()
        await send_in_pieces(peer, then)
        if b"content-length" not in then.headers and b"transfer-encoding" not in then.headers:
            peer.close()
        await assert_reads(await within(call), then)
        if not reads_first:
            await assert_reads(response, first)

    example(test)


@settings(max_examples=60, deadline=None)
@given(answer=answers(("counted", "chunked")), kept=st.floats(0, 1, exclude_max=True), resets=st.booleans())
def test_an_answer_that_was_cut_short_is_never_complete(
    example: Callable[..., None], answer: Answer, kept: float, resets: bool
) -> None:
    async def test(pair: Pair) -> None:
        call = pair.post()
        peer = await pair.server.accept()
        await send_in_pieces(peer, answer, int(kept * len(answer.raw)))
        if resets:
            peer.reset()
        else:
            peer.close()
        read = b""
        with pytest.raises(ConnectionLost):  # noqa: PT012 - the head may be missing as well as the body
            response = await within(call)
            while part := await response.read():
                read += part
        assert answer.body.startswith(read)

    example(test)


@settings(max_examples=60, deadline=None)
@given(garbage=st.one_of(st.binary(max_size=200), st.binary(max_size=200).map((OK + b"\r\n").__add__)))
def test_any_bytes_end_in_an_answer_or_in_one_of_our_errors(example: Callable[..., None], garbage: bytes) -> None:
    async def test(pair: Pair) -> None:
        call = pair.post()
        peer = await pair.server.accept()
        await peer.serve(garbage)
        peer.close()
        with suppress(ConnectionLost, InvalidAnswer):
            await read_all(await within(call))

    example(test)
