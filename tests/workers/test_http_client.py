"""The worker's HTTP client against real sockets: what a server may do to a connection, and what callers see of it."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import os
import socket
import ssl
import tracemalloc
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import BackendError, BackendTimeout, BackendUnreachable, BadBackendResponse
from shared.jobs import TakenJob
from shared.kinds import KINDS
from shared.settings import BackendSettings, ModelSettings, WorkerSettings
from tests.support.peers import SECONDS, Peer, PeerServer, open_server
from tests.support.rooms import a_spec
from tests.support.tls import KeyPair, make_authority, make_certificate
from tests.support.waiting import wait_until_async
from workers import dialer, http_client
from workers.backends import Backends
from workers.dialer import ConnectFailed
from workers.http_client import ConnectionLost, InvalidAnswer, Origin, Response

TEST_SECONDS = 10.0
MEGABYTE = 1 << 20
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
ASK = b"x-request-id: req_1\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a coroutine as a test under asyncio and under uvloop; whatever a loop must complain of fails it."""

    @functools.wraps(test)
    def run(*args: Any, loop_kind: str, **kwargs: Any) -> None:
        run_on(loop_kind, functools.partial(test, *args, **kwargs))

    given = inspect.signature(test)
    kind = inspect.Parameter("loop_kind", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = given.replace(parameters=[*given.parameters.values(), kind])  # type: ignore[attr-defined]
    both: Callable[..., None] = pytest.mark.parametrize("loop_kind", LOOPS)(run)
    return both


def run_on(loop_kind: str, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    complaints: list[dict[str, Any]] = []

    async def bounded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(TEST_SECONDS):
            await test()

    with asyncio.Runner(loop_factory=LOOPS[loop_kind]) as runner:
        runner.run(bounded())
    assert not complaints


@asynccontextmanager
async def calling(
    address: str, *, scheme: str = "http", path: str = "/v1", connect_seconds: float = 2.0, **headers: str
) -> AsyncIterator[Origin]:
    origin = Origin(f"{scheme}://{address}{path}", headers, connect_timeout_seconds=connect_seconds)
    try:
        yield origin
    finally:
        origin.close()


@dataclass
class Pair:
    """A server and a client of it."""

    server: PeerServer
    origin: Origin

    def post(self, body: bytes = b"{}") -> asyncio.Task[Response]:
        return asyncio.create_task(self.origin.post(b"", ASK, body))

    async def exchange(self, answer: bytes, peer: Peer | None = None) -> tuple[Response, Peer]:
        """Ask and answer, on a new connection or on that of a peer."""
        call = self.post()
        peer = peer or await self.server.accept()
        await peer.serve(answer)
        return await within(call), peer


@asynccontextmanager
async def open_pair(tls: ssl.SSLContext | None = None) -> AsyncIterator[Pair]:
    scheme = "https" if tls else "http"
    async with open_server(tls) as server, calling(server.address, scheme=scheme) as origin:
        yield Pair(server, origin)


async def within(task: asyncio.Task[Any]) -> Any:
    async with asyncio.timeout(SECONDS):
        return await task


async def read_all(response: Response) -> bytes:
    async with asyncio.timeout(SECONDS):
        parts = []
        while part := await response.read():
            parts.append(part)
        assert response.is_complete
        return b"".join(parts)


def counted(body: bytes, *lines: bytes, start: bytes = OK) -> bytes:
    head = b"".join(line + b"\r\n" for line in lines)
    return b"%bcontent-length: %d\r\n%b\r\n%b" % (start, len(body), head, body)


def chunked(*parts: bytes, trailer: bytes = b"") -> bytes:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return OK + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailer + b"\r\n"


def descriptors() -> int:
    return psutil.Process().num_fds()


async def descriptors_are(count: int) -> None:
    await wait_until_async(lambda: descriptors() <= count, 2, f"at most {count} open descriptors")


async def stalled(peer: Peer) -> int:
    """Wait until the client takes no more; returns what is left."""
    seen = [0, 0]

    def is_still() -> bool:
        seen[:] = seen[1], peer.unsent
        return seen[0] == seen[1] > 0

    await wait_until_async(is_still, SECONDS, "back-pressure", poll_seconds=0.1)
    return seen[1]


# --- requests ---------------------------------------------------------------------------------------------------


@on_both_loops
async def test_a_request_has_its_headers_and_its_body() -> None:
    async with open_server() as server, calling(server.address, accept="x/y") as origin:
        call = asyncio.create_task(origin.post(b"/chat", ASK, b'{"a":1}'))
        head, body = await (await server.accept()).serve(counted(b"yes"))
        assert await read_all(await within(call)) == b"yes"
        lines = head.split(b"\r\n")
        assert lines[0] == b"POST /v1/chat HTTP/1.1"
        assert sorted(lines[1:-2]) == sorted([
            b"host: " + server.address.encode(), b"accept: x/y", b"accept-encoding: identity", b"x-request-id: req_1",
            b"content-length: 7",
        ])  # fmt: skip
        assert body == b'{"a":1}'


@pytest.mark.parametrize("over_tls", [False, True])
@on_both_loops
async def test_a_request_of_ten_megabytes_arrives_whole(over_tls: bool, trusted: ssl.SSLContext) -> None:
    body = os.urandom(MEGABYTE) * 10
    async with open_pair(trusted if over_tls else None) as pair:
        call = pair.post(body)
        peer = await pair.server.accept()
        assert (await peer.serve(counted(b"yes")))[1] == body
        assert await read_all(await within(call)) == b"yes"
        await pair.exchange(counted(b"again"), peer)
        assert pair.server.accepted == 1


@on_both_loops
async def test_user_and_password_of_the_url_are_sent_decoded() -> None:
    async with open_server() as server, calling("us%40er:p%3Aw%C3%A9@" + server.address) as origin:
        call = asyncio.create_task(origin.post(b"", b"", b""))
        head, _ = await (await server.accept()).serve(counted(b""))
        await within(call)
        assert b"authorization: Basic " + b64encode("us@er:p:wé".encode()) in head.split(b"\r\n")
        assert b"host: " + server.address.encode() in head.split(b"\r\n")


def loopbacks() -> list[str]:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return ["127.0.0.1", "::1"]
    return ["127.0.0.1"]


@pytest.mark.parametrize("host", loopbacks())
@on_both_loops
async def test_addresses_of_both_families_are_called(host: str) -> None:
    async with open_server(host=host) as server, calling(server.address) as origin:
        call = asyncio.create_task(origin.post(b"", b"", b""))
        head, _ = await (await server.accept()).serve(counted(b"yes"))
        assert await read_all(await within(call)) == b"yes"
        assert b"host: " + server.address.encode() in head.split(b"\r\n")


@on_both_loops
async def test_a_name_beyond_ascii_is_called_by_its_encoded_form() -> None:
    async with open_server() as server:
        port = server.address.partition(":")[2]
        async with calling(f"ｌｏｃａｌｈｏｓｔ:{port}") as origin:
            call = asyncio.create_task(origin.post(b"", b"", b""))
            head, _ = await (await server.accept()).serve(counted(b"yes"))
            assert await read_all(await within(call)) == b"yes"
            assert b"host: localhost:" + port.encode() in head.split(b"\r\n")


# --- answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "body", "is_reused"),
    [
        (counted(b"hello"), b"hello", True),
        (counted(b""), b"", True),
        (chunked(b"hel", b"lo"), b"hello", True),
        (chunked(b"hello", trailer=b"x-checksum: 1\r\n"), b"hello", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + counted(b"a"), b"a", True),
        (counted(b"hello", b"upgrade: h2c", b"connection: upgrade"), b"hello", True),
        (counted(b"hello", b"connection: close"), b"hello", False),
        (b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello", b"hello", True),
        (OK + b"transfer-encoding: chunked\r\n\r\n5   \r\nhello\r\n0\r\n\r\n", b"hello", True),
        (counted(b"hello", b"x-odd: a\x01b"), b"hello", True),
        (counted(b"hello", start=b"HTTP/1.0 200 OK\r\n"), b"hello", False),
        (counted(b"hello", b"connection: keep-alive", start=b"HTTP/1.0 200 OK\r\n"), b"hello", True),
    ],
)
@on_both_loops
async def test_an_answer_ends_where_its_head_says(answer: bytes, body: bytes, is_reused: bool) -> None:
    async with open_pair() as pair:
        for round_ in (1, 2):
            call = pair.post()
            if round_ == 1 or not is_reused:
                peer = await pair.server.accept()
            await peer.serve(answer)
            assert await read_all(await within(call)) == body
            if not is_reused:
                await peer.closed()
        assert pair.server.accepted == (1 if is_reused else 2)


@pytest.mark.parametrize("start", [OK, b"HTTP/1.0 200 OK\r\n", OK + b"connection: close\r\n"])
@on_both_loops
async def test_an_answer_without_a_length_ends_with_its_connection(start: bytes) -> None:
    async with open_pair() as pair:
        call = pair.post()
        peer = await pair.server.accept()
        await peer.serve(start + b"\r\nhello")
        response = await within(call)
        assert await within(asyncio.create_task(response.read())) == b"hello"
        assert not response.is_complete
        await peer.send(b" world")
        peer.close()
        assert await read_all(response) == b" world"


@on_both_loops
async def test_an_answer_without_a_length_that_was_reset_is_not_complete() -> None:
    async with open_pair() as pair:
        response, peer = await pair.exchange(OK + b"\r\nhello")
        assert await within(asyncio.create_task(response.read())) == b"hello"
        peer.reset()
        with pytest.raises(ConnectionLost):
            await read_all(response)


@on_both_loops
async def test_headers_are_of_the_final_answer_alone() -> None:
    async with open_pair() as pair:
        interim = b"HTTP/1.1 103 Early Hints\r\ncontent-encoding: gzip\r\n\r\n"
        response, _ = await pair.exchange(interim + counted(b"", b"Content-TYPE: a/b"))
        assert (response.status, response.headers) == (200, {b"content-length": b"0", b"content-type": b"a/b"})


@on_both_loops
async def test_a_trailer_does_not_change_the_headers() -> None:
    async with open_pair() as pair:
        response, _ = await pair.exchange(chunked(b"hello", trailer=b"content-encoding: gzip\r\n"))
        assert await read_all(response) == b"hello"
        assert response.headers == {b"transfer-encoding": b"chunked"}


@on_both_loops
async def test_blanks_around_a_header_are_none_of_its_value() -> None:
    async with open_pair() as pair:
        response, _ = await pair.exchange(counted(b"", b"content-encoding: \t identity \t "))
        assert response.headers[b"content-encoding"] == b"identity"


@pytest.mark.parametrize(
    "answer",
    [
        b"no HTTP at all\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\nabc",
        OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        OK + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        OK + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        OK + b"content-length: -3\r\n\r\nabc",
        OK + b"content-length: 99999999999999999999\r\n\r\nabc",
        b"HTTP/1.1 103 Early Hints\r\ncontent-length: 3\r\n\r\nabc" + counted(b"def"),
    ],
)
@on_both_loops
async def test_what_cannot_be_told_to_end_somewhere_is_refused(answer: bytes) -> None:
    async with open_pair() as pair:
        call = pair.post()
        peer = await pair.server.accept()
        await peer.serve(answer)
        with pytest.raises(InvalidAnswer):
            await within(call)
        await peer.closed()
        assert pair.server.accepted == 1


@on_both_loops
async def test_a_broken_chunk_fails_the_reader_after_what_was_good() -> None:
    async with open_pair() as pair:
        start = OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
        response, peer = await pair.exchange(start + b"zz\r\n")
        assert await within(asyncio.create_task(response.read())) == b"hello"
        with pytest.raises(InvalidAnswer):
            await read_all(response)
        await peer.closed()


@pytest.mark.parametrize("line", [b"x: " + b"y" * 1000 + b"\r\n", b"y" * 1000, b"\r\nHTTP/1.1 100 Continue\r\n"])
@on_both_loops
async def test_a_head_without_an_end_is_refused(line: bytes) -> None:
    async with open_pair() as pair:
        call = pair.post()
        peer = await pair.server.accept()
        await peer.serve(b"HTTP/1.1 100 Continue\r\n")
        with suppress(ConnectionError):
            while peer.unsent < 4 * MEGABYTE and not call.done():
                await peer.send(line * 20)
        with pytest.raises(InvalidAnswer):
            await within(call)
        await peer.closed()


@on_both_loops
async def test_a_head_of_thirty_kilobytes_is_read() -> None:
    async with open_pair() as pair:
        lines = [b"x-%d: %b" % (number, b"y" * 1000) for number in range(30)]
        response, _ = await pair.exchange(counted(b"hello", *lines))
        assert await read_all(response) == b"hello"
        assert len(response.headers) == 31


# --- an answer cut anywhere -------------------------------------------------------------------------------------

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
            async with asyncio.timeout(TEST_SECONDS), calling(server.address) as origin:
                await test(Pair(server, origin))
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


# --- kept-alive connections -------------------------------------------------------------------------------------


@on_both_loops
async def test_the_connection_that_was_used_last_goes_first() -> None:
    async with open_pair() as pair:
        calls = [pair.post(), pair.post()]
        older, newer = await pair.server.accept(), await pair.server.accept()
        for peer in (older, newer):
            await peer.serve(counted(b"1"))
        for response in await within(asyncio.ensure_future(asyncio.gather(*calls))):
            assert await read_all(response) == b"1"
        await pair.exchange(counted(b"2"), newer)
        first = pair.post()
        await newer.request()
        second = pair.post()
        await older.serve(counted(b"for the second"))
        await newer.send(counted(b"for the first"))
        assert await read_all(await within(first)) == b"for the first"
        assert await read_all(await within(second)) == b"for the second"
        assert pair.server.accepted == 2


@on_both_loops
async def test_an_idle_connection_is_closed_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "KEEP_ALIVE_SECONDS", 0.3)
    loop = asyncio.get_running_loop()
    async with open_pair() as pair:
        calls = [pair.post(), pair.post()]
        peers = [await pair.server.accept(), await pair.server.accept()]
        for peer in peers:
            await peer.serve(counted(b"1"))
        for call in calls:
            await within(call)
        first_idle = loop.time()
        while loop.time() < first_idle + 0.2:  # the one that is used stays
            await pair.exchange(counted(b"2"), peers[1])
        last_used = loop.time()
        await peers[0].closed(2)
        assert loop.time() > first_idle + 0.25
        await peers[1].closed(2)
        assert loop.time() > last_used + 0.25
        await pair.exchange(counted(b"3"))
        assert pair.server.accepted == 3


@on_both_loops
async def test_closing_ends_idle_connections_at_once_and_others_with_their_answers() -> None:
    async with open_pair() as pair:
        calls = [pair.post(), pair.post()]
        busy, idle = await pair.server.accept(), await pair.server.accept()
        await busy.request()
        await idle.serve(counted(b"1"))
        await wait_until_async(lambda: any(call.done() for call in calls))
        pair.origin.close()
        await idle.closed()
        await busy.send(counted(b"2"))
        assert sorted([await read_all(await within(call)) for call in calls]) == [b"1", b"2"]
        await busy.closed()


@on_both_loops
async def test_a_connection_that_the_server_has_closed_is_not_used() -> None:
    async with open_pair() as pair:
        response, peer = await pair.exchange(counted(b"1"))
        await read_all(response)
        peer.close()
        await peer.closed()  # the client's end has seen it, then
        await pair.exchange(counted(b"2"))


@on_both_loops
async def test_a_request_on_a_stale_connection_goes_out_once_more_on_a_fresh_one() -> None:
    async with open_pair() as pair:
        calls = [pair.post(), pair.post()]
        idle, stale = await pair.server.accept(), await pair.server.accept()
        for peer in (idle, stale):
            await peer.serve(counted(b"1"))
        for call in calls:
            await within(call)
        call = pair.post(b"the body")
        request = await stale.request()
        stale.close()
        fresh = await pair.server.accept()  # not the other idle one, which may be as stale
        assert await fresh.serve(counted(b"2")) == request
        assert await read_all(await within(call)) == b"2"
        assert pair.server.accepted == 3


@pytest.mark.parametrize("resets", [False, True])
@on_both_loops
async def test_a_request_goes_out_twice_at_most(resets: bool) -> None:
    async with open_pair() as pair:
        _, peer = await pair.exchange(counted(b"1"))
        call = pair.post()
        for _ in range(2):
            await peer.request()
            (peer.reset if resets else peer.close)()
            peer = await pair.server.accept() if pair.server.accepted == 1 else peer
        with pytest.raises(ConnectionLost):
            await within(call)
        assert pair.server.accepted == 2


@on_both_loops
async def test_a_request_that_failed_on_a_fresh_connection_does_not_go_out_again() -> None:
    async with open_pair() as pair:
        call = pair.post()
        peer = await pair.server.accept()
        await peer.request()
        peer.close()
        with pytest.raises(ConnectionLost):
            await within(call)
        assert pair.server.accepted == 1


@pytest.mark.parametrize("heard", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", OK])
@on_both_loops
async def test_a_request_does_not_go_out_again_after_a_byte_of_an_answer(heard: bytes) -> None:
    async with open_pair() as pair:
        _, peer = await pair.exchange(counted(b"1"))
        call = pair.post()
        await peer.serve(heard)
        peer.close()
        with pytest.raises(ConnectionLost):
            await within(call)
        assert pair.server.accepted == 1


@on_both_loops
async def test_a_request_that_was_lost_late_does_not_go_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "STALE_SECONDS", 0.05)
    async with open_pair() as pair:
        _, peer = await pair.exchange(counted(b"1"))
        call = pair.post()
        await peer.request()
        asyncio.get_running_loop().call_later(0.2, peer.close)
        with pytest.raises(ConnectionLost):
            await within(call)
        assert pair.server.accepted == 1


@pytest.mark.parametrize(
    "behind",
    [
        b"garbage",
        counted(b"evil"),
        OK,  # the start of an answer that ends after the next request
        b"H",
        b"HTTP/1.1 100 Continue\r\n",
    ],
)
@pytest.mark.parametrize("apart", [False, True])
@on_both_loops
async def test_bytes_behind_an_answer_are_never_taken_for_the_next_one(behind: bytes, apart: bool) -> None:
    async with open_pair() as pair:
        call = pair.post()
        peer = await pair.server.accept()
        await peer.serve(counted(b"good") + (b"" if apart else behind))
        assert await read_all(await within(call)) == b"good"
        if apart:
            await peer.send(behind)
            await peer.closed()
        call = pair.post()
        fresh = await pair.server.accept()
        await fresh.serve(counted(b"next"))
        assert await read_all(await within(call)) == b"next"
        await peer.closed()


@pytest.mark.parametrize("size", [10, MEGABYTE])
@on_both_loops
async def test_a_specer_who_asks_at_once_is_not_given_a_spoilt_connection(size: int) -> None:
    async with open_pair() as pair:

        async def both() -> Response:
            await read_all(await pair.origin.post(b"", ASK, b""))
            return await pair.origin.post(b"", ASK, b"x" * size)

        call = asyncio.create_task(both())
        spoilt = await pair.server.accept()
        await spoilt.serve(counted(b"good") + b"garbage")
        _, body = await (await pair.server.accept()).serve(counted(b"next"))
        assert body == b"x" * size
        assert await read_all(await within(call)) == b"next"


@pytest.mark.parametrize(("over_tls", "status"), [(False, 413), (False, 200), (True, 413)])
@on_both_loops
async def test_an_answer_before_the_request_was_sent_costs_the_connection(
    over_tls: bool, status: int, trusted: ssl.SSLContext
) -> None:
    async with open_pair(trusted if over_tls else None) as pair:
        call = pair.post(b"x" * MEGABYTE * 30)
        peer = await pair.server.accept()
        await peer.head()
        peer.writer.write(counted(b"early", start=b"HTTP/1.1 %d x\r\n" % status))
        response = await within(call)
        assert (response.status, await read_all(response)) == (status, b"early")
        call = pair.post()
        fresh = await pair.server.accept()
        await fresh.serve(counted(b"next"))
        assert await read_all(await within(call)) == b"next"
        await peer.closed(SECONDS)


@on_both_loops
async def test_a_refusal_that_came_before_the_connection_was_reset_is_read() -> None:
    async with open_pair() as pair:
        call = pair.post(b"x" * MEGABYTE * 30)
        peer = await pair.server.accept()
        await peer.head()
        peer.writer.write(counted(b"too large", start=b"HTTP/1.1 413 Content Too Large\r\n"))
        peer.close()  # with much of the request unread, so that the client's kernel is told of a reset
        response = await within(call)
        assert (response.status, await read_all(response)) == (413, b"too large")


# --- letting go -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["handshake", "head", "reused", "body", "paused"])
@on_both_loops
async def test_cancelling_closes_the_servers_side_and_leaves_nothing(when: str) -> None:
    async with open_server() as server:
        before = descriptors()
        async with calling(server.address, scheme="https" if when == "handshake" else "http") as origin:

            async def call() -> None:
                response = await origin.post(b"", ASK, b"{}")
                try:
                    await (asyncio.Event().wait() if when == "paused" else read_all(response))
                finally:
                    response.close()

            task = asyncio.create_task(call())
            peer = await server.accept()
            if when == "handshake":
                await peer.reader.readexactly(1)
            elif when == "head":
                await peer.request()
            elif when == "reused":
                await peer.serve(counted(b"1"))
                await within(task)
                task = asyncio.create_task(call())
                await peer.request()
            else:
                await peer.serve(OK + b"content-length: 99999999\r\n\r\nhello")
                if when == "paused":
                    peer.writer.write(b"x" * 20 * MEGABYTE)
                    await stalled(peer)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await within(task)
            await peer.closed()
        peer.reset()
        await descriptors_are(before)


@asynccontextmanager
async def full_backlog() -> AsyncIterator[str]:
    """A server that takes no more connections: connecting to it does not come to an end."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
        host, port = listener.getsockname()
        filling: list[asyncio.Task[None]] = []
        sockets: list[socket.socket] = []
        try:
            while not filling or filling[-1].done():
                sockets.append(socket.socket())
                sockets[-1].setblocking(False)
                filling.append(asyncio.create_task(loop.sock_connect(sockets[-1], (host, port))))
                await asyncio.wait(filling[-1:], timeout=0.1)
            yield f"{host}:{port}"
        finally:
            for task in filling:
                task.cancel()
            await asyncio.gather(*filling, return_exceptions=True)
            for one in sockets:
                one.close()


@on_both_loops
async def test_a_connection_that_is_not_made_can_be_cancelled_and_has_a_limit() -> None:
    async with full_backlog() as address:
        before = descriptors()
        async with calling(address, connect_seconds=0.3) as origin:
            with pytest.raises(ConnectFailed):
                await origin.post(b"", ASK, b"")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await origin.post(b"", ASK, b"")
        await descriptors_are(before)


@on_both_loops
async def test_cancelling_at_any_step_of_the_loop_leaves_nothing(trusted: ssl.SSLContext) -> None:
    for tls in (None, trusted):
        async with open_pair(tls) as pair:
            await pair.exchange(counted(b"warm"))
            pair.origin.close()
            before = descriptors() - 2
            address, scheme = pair.server.address, "https" if tls else "http"
            for steps in range(40):
                async with calling(address, scheme=scheme) as origin:
                    call = asyncio.create_task(origin.post(b"", ASK, b"{}"))
                    for _ in range(steps):
                        await asyncio.sleep(0)
                    call.cancel()
                    with suppress(asyncio.CancelledError):
                        (await within(call)).close()
            await pair.server.end()
            await descriptors_are(before)


@pytest.mark.parametrize("answer", [counted(b"x" * 1000)[:-100], chunked(b"hello")[:-5], OK + b"\r\nhello"])
@on_both_loops
async def test_closing_an_answer_fails_who_waits_for_it(answer: bytes) -> None:
    async with open_pair() as pair:
        response, peer = await pair.exchange(answer)
        assert await within(asyncio.create_task(response.read()))
        waiting = asyncio.create_task(response.read())
        asyncio.get_running_loop().call_soon(response.close)
        with pytest.raises(ConnectionLost):
            await within(waiting)
        assert not response.is_complete
        await peer.closed()


@on_both_loops
async def test_closing_an_answer_that_is_not_read_harms_nobody() -> None:
    async with open_pair() as pair:
        response, peer = await pair.exchange(OK + b"content-length: 99999999\r\n\r\n")
        peer.writer.write(b"x" * 20 * MEGABYTE)
        await stalled(peer)
        response.close()
        assert await response.read()
        response.release()
        with pytest.raises(ConnectionLost):
            await read_all(response)
        await peer.closed()


@pytest.mark.parametrize("is_read", [False, True])
@on_both_loops
async def test_a_released_answer_that_ends_soon_leaves_its_connection_for_the_next(is_read: bool) -> None:
    async with open_pair() as pair:
        call = pair.post()
        peer = await pair.server.accept()
        await peer.serve(OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        response = await within(call)
        if is_read:
            assert await within(asyncio.create_task(response.read())) == b"hello"
        response.release()
        await peer.send(b"5\r\nworld\r\n0\r\n\r\n")
        await wait_until_async(lambda: response.is_complete)
        again, _ = await pair.exchange(counted(b"next"), peer)
        assert await read_all(again) == b"next"


@on_both_loops
async def test_an_answer_that_was_paused_leaves_a_connection_that_reads() -> None:
    async with open_pair() as pair:
        response, peer = await pair.exchange(OK + b"content-length: %d\r\n\r\n" % (20 * MEGABYTE))
        peer.writer.write(b"x" * 20 * MEGABYTE)
        await stalled(peer)
        response.release()
        await wait_until_async(lambda: response.is_complete)
        # The last byte is what fills the buffer: the next answer is read all the same.
        body = b"y" * (http_client.MAX_BUFFERED_BYTES + 1)
        unread, _ = await pair.exchange(counted(body), peer)
        await wait_until_async(lambda: unread.is_complete)
        again, _ = await pair.exchange(counted(b"next"), peer)
        assert await read_all(again) == b"next"
        assert await read_all(unread) == body


@on_both_loops
async def test_a_released_answer_without_an_end_is_closed_and_held_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "TRAILING_SECONDS", 0.3)
    piece, sent = b"x" * (1 << 16), 0
    async with open_pair() as pair:
        response, peer = await pair.exchange(OK + b"transfer-encoding: chunked\r\n\r\n")
        tracemalloc.start()
        try:
            response.release()
            with suppress(ConnectionError):
                while True:
                    await peer.send(b"10000\r\n%b\r\n" % piece)
                    sent += len(piece)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 * MEGABYTE < sent
        assert not response.is_complete
        await pair.exchange(counted(b"next"))
        assert pair.server.accepted == 2


@on_both_loops
async def test_the_limit_of_a_released_answer_does_not_reach_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "TRAILING_SECONDS", 0.1)
    async with open_pair() as pair:
        response, peer = await pair.exchange(OK + b"content-length: 5\r\n\r\n")
        response.release()
        await peer.send(b"hello")
        await wait_until_async(lambda: response.is_complete)
        call = pair.post()
        await peer.request()
        asyncio.get_running_loop().call_later(0.3, peer.writer.write, counted(b"next"))
        assert await read_all(await within(call)) == b"next"


# --- back-pressure ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over_tls", [False, True])
@on_both_loops
async def test_a_slow_reader_holds_the_server_back(over_tls: bool, trusted: ssl.SSLContext) -> None:
    body = os.urandom(MEGABYTE) * 20
    async with open_pair(trusted if over_tls else None) as pair:
        response, peer = await pair.exchange(OK + b"content-length: %d\r\n\r\n" % len(body))
        sending = asyncio.create_task(send_megabytes(peer, body))
        await stalled(peer)
        assert not sending.done()
        parts = []
        while part := await response.read():
            parts.append(part)
            await asyncio.sleep(0)  # a reader with other things to do
        assert max(map(len, parts)) <= MEGABYTE
        assert b"".join(parts) == body
        await within(sending)
        await pair.exchange(counted(b"next"), peer)
        assert pair.server.accepted == 1


async def send_megabytes(peer: Peer, body: bytes) -> None:
    for start in range(0, len(body), MEGABYTE):
        await peer.send(body[start : start + MEGABYTE])


# --- connecting -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> KeyPair:
    return make_authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server_context(tmp_path_factory: pytest.TempPathFactory, authority: KeyPair) -> ssl.SSLContext:
    """For a server at 127.0.0.1."""
    pair = make_certificate(tmp_path_factory.mktemp("server"), authority)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.certificate, pair.key)
    return context


@pytest.fixture
def trusted(
    monkeypatch: pytest.MonkeyPatch, authority: KeyPair, server_context: ssl.SSLContext
) -> Iterator[ssl.SSLContext]:
    """A server's context whose authority this machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    dialer.tls_context.cache_clear()
    yield server_context
    dialer.tls_context.cache_clear()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@on_both_loops
async def test_tls_connections_are_verified_and_used_again(trusted: ssl.SSLContext, host: str) -> None:
    async with open_server(trusted) as server:
        address = server.address.replace("127.0.0.1", host)
        async with calling(address, scheme="https") as origin:
            pair = Pair(server, origin)
            response, peer = await pair.exchange(counted(b"hello"))
            assert await read_all(response) == b"hello"
            response, _ = await pair.exchange(chunked(b"hel", b"lo"), peer)
            assert await read_all(response) == b"hello"
            call = pair.post()  # and a stale one goes out again here too
            await peer.request()
            peer.close()
            await (await server.accept()).serve(OK + b"\r\nto the end")
            assert await within(asyncio.create_task((await within(call)).read())) == b"to the end"


@pytest.mark.parametrize("why", ["untrusted", "wrong name", "no TLS"])
@on_both_loops
async def test_a_server_that_cannot_be_verified_gets_nothing(
    why: str, request: pytest.FixtureRequest, server_context: ssl.SSLContext
) -> None:
    if why == "wrong name":
        request.getfixturevalue("trusted")
    async with open_server(None if why == "no TLS" else server_context, "0.0.0.0") as server:
        host = "127.0.0.2" if why == "wrong name" else "127.0.0.1"
        before = descriptors()
        async with calling(server.address.replace("0.0.0.0", host), scheme="https") as origin:
            call = asyncio.create_task(origin.post(b"", ASK, b"secret"))
            if why == "no TLS":
                peer = await server.accept()
                await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                peer.close()
            with pytest.raises(ConnectFailed):
                await within(call)
        await server.end()
        await descriptors_are(before)


@on_both_loops
async def test_a_handshake_without_an_answer_has_a_limit() -> None:
    async with open_server() as server, calling(server.address, scheme="https", connect_seconds=0.2) as origin:
        with pytest.raises(ConnectFailed):
            await origin.post(b"", ASK, b"")
        await (await server.accept()).closed()


@pytest.mark.parametrize("host", ["nobody.invalid", "a" * 64 + ".invalid", "a..invalid", "256.0.0.1"])
@on_both_loops
async def test_a_name_that_leads_nowhere_is_a_failed_connection(host: str) -> None:
    async with calling(host) as origin:
        with pytest.raises(ConnectFailed):
            await origin.post(b"", ASK, b"")


@on_both_loops
async def test_a_port_where_nobody_listens_is_a_failed_connection() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    async with calling(f"127.0.0.1:{port}") as origin:
        with pytest.raises(ConnectFailed):
            await origin.post(b"", ASK, b"")


# --- what a job sees (workers/backends.py) ----------------------------------------------------------------------


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
async def open_model() -> AsyncIterator[Model]:
    async with open_server() as server:
        backend = BackendSettings(url=f"http://{server.address}/v1")
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
