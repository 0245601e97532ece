"""What only the library's transport does: proxies that ask for a password, and HTTP/2's own ways to end."""

from __future__ import annotations

import asyncio
import logging
from base64 import b64encode
from collections.abc import Iterator

import pytest

from shared.backend_settings import BackendSettings
from shared.logging import configure_logging
from tests.support.http2_peer import Http2Peer
from tests.support.peers import SECONDS, open_server
from tests.support.waiting import wait_until_async
from tests.workers.transport.scene import KINDS, Certificates, Http2Side, Scene, open_scene
from tests.workers.transport.stage import ASK, OK, PATH, chunked, counted, on_both_loops, read_all, within
from workers.transport.base import ConnectFailed, ConnectionLost, InvalidAnswer, Response
from workers.transport.choice import open_transport

PROXIES = ["proxy", "proxy, TLS", "TLS proxy", "TLS proxy, TLS"]
LOGIN = "us%40er:p%3Aw"
SHOWN = b"Basic " + b64encode(b"us@er:p:w")


@pytest.mark.parametrize("name", PROXIES)
@on_both_loops
async def test_a_proxy_is_shown_its_password_and_the_server_is_not(name: str, certificates: Certificates) -> None:
    async with open_scene(KINDS[name], certificates, login=LOGIN) as scene:
        assert scene.proxy is not None
        scene.proxy.login = b"us@er:p:w"
        call = scene.post()
        side = await scene.accept()
        _, headers, _ = await side.ask()
        await side.head()
        await side.finish()
        await within(call)
        (head,) = scene.proxy.heads
        start = b"CONNECT " if scene.kind.tls else b"POST http://"
        assert head.startswith(start + scene.server.address.encode())
        assert b"proxy-authorization: " + SHOWN in head.split(b"\r\n")
        assert not [header for header in headers if header.startswith("proxy")]
        assert (b"x-request-id" in head) != scene.kind.tls


@pytest.mark.parametrize("name", ["proxy", "TLS proxy"])
@on_both_loops
async def test_a_proxy_that_wants_another_password_is_a_failed_connection(
    name: str, certificates: Certificates
) -> None:
    async with open_scene(KINDS[name], certificates, login="wrong:password") as scene:
        assert scene.proxy is not None
        scene.proxy.login = b"right:password"
        with pytest.raises(ConnectFailed):
            await within(scene.post())
        assert scene.server.accepted == 0


@pytest.mark.parametrize("name", ["proxy, TLS", "TLS proxy, TLS", "HTTP/2, proxy"])
@pytest.mark.parametrize("refusal", [b"", b"HTTP/1.1 502 Bad Gateway\r\n\r\n", b"no HTTP\r\n\r\n"])
@on_both_loops
async def test_a_proxy_that_refuses_is_a_failed_connection(
    name: str, refusal: bytes, certificates: Certificates
) -> None:
    login = "" if refusal else "wrong:password"
    async with open_scene(KINDS[name], certificates, login=login, refusal=refusal) as scene:
        assert scene.proxy is not None
        scene.proxy.login = b"" if refusal else b"right:password"
        with pytest.raises(ConnectFailed):
            await within(scene.post())
        assert scene.server.accepted == 0


@pytest.mark.parametrize("name", PROXIES)
@pytest.mark.parametrize("behind", [b"garbage", counted(b"evil"), OK, b"H", b"HTTP/1.1 100 Continue\r\n"])
@pytest.mark.parametrize("apart", [False, True])
@on_both_loops
async def test_bytes_behind_an_answer_are_never_taken_for_the_next_one(
    name: str, behind: bytes, apart: bool, certificates: Certificates
) -> None:
    async with open_scene(KINDS[name], certificates) as scene:
        call = scene.post()
        peer = await scene.server.accept()
        await peer.serve(chunked(b"good") + (b"" if apart else behind))
        assert await read_all(await within(call)) == b"good"
        if apart:
            await peer.send(behind)
        await peer.closed()
        call = scene.post()
        await (await scene.server.accept()).serve(counted(b"next"))
        assert await read_all(await within(call)) == b"next"


@pytest.mark.parametrize("name", PROXIES)
@on_both_loops
async def test_chunks_go_before_a_length_and_no_other_answer_comes_behind_them(
    name: str, certificates: Certificates
) -> None:
    async with open_scene(KINDS[name], certificates) as scene:
        call = scene.post()
        peer = await scene.server.accept()
        await peer.serve(chunked(b"good").replace(OK, OK + b"content-length: 1\r\n"))
        assert await read_all(await within(call)) == b"good"
        await peer.closed()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"no HTTP at all\r\n\r\n", InvalidAnswer),
        (OK + b"content-length: x\r\n\r\n", InvalidAnswer),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nabc", InvalidAnswer),
        (b"HTTP/1.1 000 x\r\n\r\n", InvalidAnswer),
        (OK, ConnectionLost),
    ],
)
@on_both_loops
async def test_what_is_no_answer_is_told_from_one_that_was_lost(
    answer: bytes, error: type[Exception], certificates: Certificates
) -> None:
    async with open_scene(KINDS["proxy, TLS"], certificates) as scene:
        call = scene.post()
        peer = await scene.server.accept()
        await peer.serve(answer)
        peer.close()
        with pytest.raises(error):
            await within(call)
        assert scene.server.accepted == 1


@on_both_loops
async def test_a_broken_chunk_fails_the_reader_after_what_was_good(certificates: Certificates) -> None:
    async with open_scene(KINDS["proxy"], certificates) as scene:
        call = scene.post()
        peer = await scene.server.accept()
        await peer.serve(OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        response = await within(call)
        assert await within(asyncio.create_task(response.read())) == b"hello"
        await peer.send(b"zz\r\n")
        with pytest.raises(InvalidAnswer):
            await read_all(response)
        await peer.closed()


# --- HTTP/2 -----------------------------------------------------------------------------------------------------


async def asked(scene: Scene) -> tuple[asyncio.Task[Response], Http2Peer]:
    """Return a call whose server has read the request."""
    call = scene.post()
    side = await scene.accept()
    assert isinstance(side, Http2Side)
    await side.ask()
    return call, side.http2


@on_both_loops
async def test_a_server_that_speaks_only_http_1_gets_it(certificates: Certificates) -> None:
    tls = certificates.context("http/1.1")
    async with open_server(tls) as server:
        backend = BackendSettings(url=f"https://{server.address}/v1", http2=True, ca_file=certificates.authority)
        transport = open_transport(backend, {}, connect_timeout_seconds=SECONDS)
        call = asyncio.create_task(transport.post(PATH, ASK, b"{}"))
        head, _ = await (await server.accept()).serve(counted(b"yes"))
        assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
        assert await read_all(await within(call)) == b"yes"
        transport.close()


@on_both_loops
async def test_calls_at_once_have_a_connection_each(certificates: Certificates) -> None:
    async with open_scene(KINDS["HTTP/2"], certificates) as scene:
        first, one = await asked(scene)
        second, other = await asked(scene)
        assert one.peer is not other.peer
        first.cancel()
        await one.peer.closed()
        await other.head(200)
        await other.finish()
        await within(second)


@on_both_loops
async def test_a_stream_that_the_server_resets_is_lost(certificates: Certificates) -> None:
    async with open_scene(KINDS["HTTP/2"], certificates) as scene:
        call, http2 = await asked(scene)
        await http2.head(200)
        await http2.send(b"hello")
        response = await within(call)
        await http2.refuse_stream()
        with pytest.raises(ConnectionLost):
            await read_all(response)
        await http2.peer.closed()


@on_both_loops
async def test_a_body_of_another_length_than_told_is_refused(certificates: Certificates) -> None:
    async with open_scene(KINDS["HTTP/2"], certificates) as scene:
        call, http2 = await asked(scene)
        await http2.head(200, ("content-length", "9"))
        await http2.send(b"hello")
        response = await within(call)
        await http2.finish()
        with pytest.raises(InvalidAnswer):
            await read_all(response)
        await http2.peer.closed()


@on_both_loops
async def test_a_trailer_ends_an_answer_and_changes_no_header(certificates: Certificates) -> None:
    async with open_scene(KINDS["HTTP/2"], certificates) as scene:
        call, http2 = await asked(scene)
        await http2.head(103, ("link", "x"))
        await http2.head(200, ("x-a", "b"))
        await http2.send(b"hello")
        await http2.trailer(("x-a", "c"))
        response = await within(call)
        assert await read_all(response) == b"hello"
        assert response.headers == {b"x-a": b"b"}


@on_both_loops
async def test_a_sign_of_life_between_two_answers_costs_no_connection(certificates: Certificates) -> None:
    async with open_scene(KINDS["HTTP/2"], certificates) as scene:
        response, side = await scene.exchange()
        assert await read_all(response) == b"yes"
        assert isinstance(side, Http2Side)
        await side.http2.ping()
        response, _ = await scene.exchange(side)
        assert await read_all(response) == b"yes"
        await wait_until_async(lambda: side.http2.pings == 1)
        assert scene.server.accepted == 1


@on_both_loops
async def test_a_request_that_the_server_did_not_look_at_goes_out_once_more(certificates: Certificates) -> None:
    async with open_scene(KINDS["HTTP/2"], certificates) as scene:
        _, side = await scene.exchange()
        assert isinstance(side, Http2Side)
        call = scene.post()
        await side.ask()
        await side.http2.go_away(last_stream=1)
        fresh = await scene.accept()
        await fresh.ask()
        await fresh.head()
        await fresh.finish()
        await within(call)
        assert scene.server.accepted == 2


@on_both_loops
async def test_a_request_that_the_server_looked_at_does_not_go_out_again(certificates: Certificates) -> None:
    async with open_scene(KINDS["HTTP/2"], certificates) as scene:
        _, side = await scene.exchange()
        assert isinstance(side, Http2Side)
        call = scene.post()
        await side.ask()
        await side.http2.go_away(last_stream=3)
        with pytest.raises(ConnectionLost):
            await within(call)
        assert scene.server.accepted == 1


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Keep what the test configures from the others."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("restored_logging")
def test_no_key_is_logged_on_the_way(certificates: Certificates, capfd: pytest.CaptureFixture[str]) -> None:
    async def call() -> None:
        backend_headers = {"authorization": "Bearer canary-key"}
        async with open_scene(KINDS["HTTP/2, proxy"], certificates, headers=backend_headers) as scene:
            await scene.exchange()

    configure_logging("text", "debug")
    asyncio.run(call())
    assert "canary-key" not in capfd.readouterr().err
