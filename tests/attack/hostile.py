"""The hostile backend: a real server that answers each model with the bytes of its own script."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

KEY = "verysecretbackendkey4711"
MEGABYTE = b"a" * (1 << 20)
OK = b"HTTP/1.1 200 OK\r\n"
PLAIN = OK + b"content-type: application/json\r\nconnection: close\r\n\r\n"
SSE = OK + b"content-type: text/event-stream\r\nconnection: close\r\n\r\n"
CHUNKED = OK + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Script:
    """What is sent: a beginning, and then this piece over and over, up to so many bytes."""

    start: bytes
    piece: bytes = b""


class HostileBackend:
    """Plays the script that the asked model's name chooses."""

    def __init__(self, scripts: Mapping[str, Script], most_bytes: int) -> None:
        self._scripts = scripts
        self._most_bytes = most_bytes
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection: one request, then close."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            script = self._scripts[json.loads(await reader.readexactly(int(lengths[0])))["model"]]
            writer.write(script.start)
            await writer.drain()
            sent = 0
            while script.piece and sent < self._most_bytes:
                writer.write(script.piece)
                await writer.drain()
                sent += len(script.piece)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the worker has had enough, which is what is hoped for
        finally:
            writer.close()

    @contextlib.contextmanager
    def running(self) -> Iterator[HostileBackend]:
        """Serve in a thread on a free loopback port."""
        loop, stop, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

        async def serve() -> None:
            listener = await asyncio.start_server(self.answer, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
            ready.set()
            await stop.wait()
            listener.close()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
        thread.start()
        try:
            assert ready.wait(10), "the hostile backend does not listen"
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            loop.close()


def _said(**error: str) -> bytes:
    return json.dumps({"error": error}).encode()


def _refusal(status: bytes, body: bytes) -> Script:
    return Script(b"HTTP/1.1 %b x\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(body), body))


STATUSES = ("000", "099", "101", "199", "204", "302", "304", "600", "999")
SCRIPTS: dict[str, Script] = {
    "header-value": Script(OK + b"x-a: ", MEGABYTE),
    "header-name": Script(OK, MEGABYTE),
    "headers": Script(OK, b"x-a: b\r\n" * 10_000),
    "status-line": Script(b"HTTP/1.1 200 ", MEGABYTE),
    "interim": Script(b"", b"HTTP/1.1 103 x\r\nx-a: b\r\n\r\n" * 1000),
    "trailer-value": Script(CHUNKED + b"2\r\n{}\r\n0\r\nx-a: ", MEGABYTE),
    "trailers": Script(CHUNKED + b"2\r\n{}\r\n0\r\n", b"x-a: b\r\n" * 10_000),
    "extension": Script(CHUNKED + b"2;", MEGABYTE),
    "sse-line": Script(SSE + b"data: ", MEGABYTE),
    "sse-field": Script(SSE, MEGABYTE),
    "sse-event": Script(SSE, b"data: a\n" * 10_000),
    "plain-body": Script(PLAIN + b'{"a":"', MEGABYTE),
    **{f"status-{status}": _refusal(status.encode(), b"{}") for status in STATUSES},
    "status-word": Script(b"HTTP/1.1 abc x\r\n\r\n"),
    "no-http": Script(b"SSH-2.0-OpenSSH\r\n"),
    "http-2": Script(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "nothing": Script(b""),
    "half-a-head": Script(OK + b"content-le"),
    "two-lengths": Script(OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}"),
    "length-and-chunks": Script(OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    "negative-length": Script(OK + b"content-length: -1\r\n\r\n{}"),
    "short-body": Script(OK + b"content-length: 100\r\n\r\n{}"),
    "chunk-size": Script(CHUNKED + b"zz\r\n{}\r\n"),
    "chunk-negative": Script(CHUNKED + b"-2\r\n{}\r\n"),
    "chunk-overflow": Script(CHUNKED + b"fffffffffffffffff\r\n{}\r\n"),
    "gzip": Script(OK + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00"),
    "empty-body": Script(OK + b"content-length: 0\r\n\r\n"),
    "no-json": Script(PLAIN + b"<html>" + KEY.encode()),
    "a-list": Script(PLAIN + b"[1]"),
    "a-number": Script(PLAIN + b"1e999"),
    "deep-json": Script(PLAIN + b"[" * 100_000),
    "deep-chunk": Script(SSE + b"data: " + b'{"a":' * 100_000 + b"\n\n"),
    "null-choice": Script(SSE + b'data: {"choices":[null]}\n\n'),
    "choice-number": Script(SSE + b'data: {"choices":7}\n\n'),
    "invalid-utf8": Script(PLAIN + b'{"choices":"\xff\xfe"}'),
    **{
        f"key-{place}-{status}": _refusal(status.encode(), _said(**{"message": "no", place: f"bad key {KEY}"}))
        for place in ("message", "param", "code", "type")
        for status in ("400", "401", "422", "429", "500", "503")
    },
    "key-base64": _refusal(b"400", _said(message="dmVyeXNlY3JldGJhY2tlbmRrZXk0NzEx")),
    "key-in-event": Script(SSE + b"data: " + _said(message=f"bad {KEY}") + b"\n\n"),
    "escape-code": _refusal(b"400", _said(message="no", code="\x1b[2J\nFORGED code")),
    "escape-message": _refusal(b"400", _said(message="\x1b]0;owned\x07\r\nFORGED line")),
}
"""By the model's name, each with a way to harm or to tell what is not to be told."""
