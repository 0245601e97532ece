"""Whole answers leave in one piece, and no header can begin another."""

from __future__ import annotations

import asyncio

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from api.connection import ClientConnection
from api.exchange import Exchange
from api.record import RequestRecord
from shared.settings import ApiSettings
from tests.support.asynchronous import asynchronous

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: here\r\ncontent-length: 2\r\n\r\n{}"


class Wire(asyncio.Transport):
    """A socket's end that remembers each write."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Remember what would be one packet."""
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        """Tell whether `close` was called."""
        return self.closed

    def close(self) -> None:
        """Remember it."""
        self.closed = True

    def get_write_buffer_size(self) -> int:
        """Return 0: all is taken at once."""
        return 0

    def write_eof(self) -> None:
        """Nothing."""

    def pause_reading(self) -> None:
        """Nothing."""

    def resume_reading(self) -> None:
        """Nothing."""


async def answered(request: bytes, *, header: bytes = b"1", stream: bool = False) -> tuple[Wire, list[BaseException]]:
    """Return what is written in answer to a request, and what failed."""
    done, failed = asyncio.Event(), list[BaseException]()

    async def app(scope, receive, send) -> None:  # type: ignore[no-untyped-def]
        scope.setdefault("state", {})["record"] = RequestRecord("j", "req_j", method="POST", path=b"/", client="c")
        scope["state"]["send"] = send
        exchange = Exchange(scope, receive, send)
        exchange.add_headers([(b"x-test", header)])
        try:
            if stream:
                await exchange.start(200, b"text/event-stream", is_joined=True)
                await exchange.write(b"data: 1\n\n")
                await exchange.write(b"data: 2\n\n", more=False)
            else:
                await exchange.answer(200, b'{"a":1}')
        except RuntimeError as error:
            failed.append(error)
            raise
        finally:
            done.set()

    config = Config(app, lifespan="off", log_config=None)
    config.load()
    connection, wire = ClientConnection(config, ServerState(), {}, settings=ApiSettings()), Wire()
    connection.connection_made(wire)
    connection.data_received(request)
    await asyncio.wait_for(done.wait(), 10)
    await asyncio.sleep(0)
    was_closed = wire.closed
    connection.connection_lost(None)
    wire.closed = was_closed
    return wire, failed


@asynchronous
async def test_a_whole_answer_is_one_piece_with_every_header_once() -> None:
    wire, _ = await answered(REQUEST)
    assert len(wire.written) == 1
    head, _, body = wire.written[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and body == b'{"a":1}'
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
    assert len(names) == len(set(names))
    assert {b"content-type", b"content-length", b"x-request-id", b"openai-version", b"x-test"} <= set(names)
    assert b"connection" not in names and not wire.closed


@pytest.mark.parametrize("last", [b"connection: close\r\n", b""], ids=["asked", "1.0"])
@asynchronous
async def test_a_last_answer_says_so_and_ends_the_connection(last: bytes) -> None:
    version = b"HTTP/1.1" if last else b"HTTP/1.0"
    wire, _ = await answered(REQUEST.replace(b"HTTP/1.1\r\n", version + b"\r\n" + last))
    assert b"\r\nconnection: close\r\n" in wire.written[0] and wire.written[0].endswith(b'{"a":1}')
    assert wire.closed


@asynchronous
async def test_an_answer_to_head_has_no_body() -> None:
    wire, _ = await answered(REQUEST.replace(b"POST", b"HEAD"))
    assert b"".join(wire.written).endswith(b"\r\n\r\n")


@asynchronous
async def test_a_streams_head_leaves_with_its_first_part() -> None:
    wire, _ = await answered(REQUEST, stream=True)
    assert len(wire.written) == 2
    assert wire.written[0].startswith(b"HTTP/1.1 200 OK\r\n") and wire.written[0].endswith(
        b"\r\n\r\n9\r\ndata: 1\n\n\r\n"
    )
    assert wire.written[1] == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"


@pytest.mark.parametrize("header", [b"1\r\nx-more: 2", b"1\n", b"1\r", b"\0"])
@asynchronous
async def test_no_header_begins_another_line(header: bytes) -> None:
    wire, failed = await answered(REQUEST, header=header)
    assert failed and not any(b"x-test" in piece for piece in wire.written)
