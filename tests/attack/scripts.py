"""What hostile backends answer: bytes by name, as a model's name chooses them."""

from __future__ import annotations

import json
from dataclasses import dataclass

KEY = "verysecretbackendkey4711"
KEY_BASE64 = "dmVyeXNlY3JldGJhY2tlbmRrZXk0NzEx"
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


def _said(**error: str) -> bytes:
    return json.dumps({"error": error}).encode()


def _refusal(status: bytes, body: bytes) -> Script:
    return Script(b"HTTP/1.1 %b x\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(body), body))


STATUSES = ("000", "099", "101", "199", "204", "302", "304", "600", "999")
WHOLE_ANSWER = b'{"id":"x","created":1,"model":"m","choices":[{"index":0,"message":{"content":"'
CHUNK = b'data: {"id":"x","created":1,"model":"m","choices":[{"index":0,"delta":{"content":"'
ENDLESS_HEADS: dict[str, Script] = {
    "header-value": Script(OK + b"x-a: ", MEGABYTE),
    "header-name": Script(OK, MEGABYTE),
    "headers": Script(OK, b"x-a: b\r\n" * 10_000),
    "shortest-headers": Script(OK, b"".join(b"%x:\r\n" % number for number in range(20_000))),
    "status-line": Script(b"HTTP/1.1 200 ", MEGABYTE),
    "version": Script(b"HTTP/", b"1" * (1 << 20)),
    "interim": Script(b"", b"HTTP/1.1 103 x\r\nx-a: b\r\n\r\n" * 1000),
    "interim-continue": Script(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "trailer-value": Script(CHUNKED + b"2\r\n{}\r\n0\r\nx-a: ", MEGABYTE),
    "trailer-name": Script(CHUNKED + b"2\r\n{}\r\n0\r\n", MEGABYTE),
    "trailers": Script(CHUNKED + b"2\r\n{}\r\n0\r\n", b"x-a: b\r\n" * 10_000),
    "extension": Script(CHUNKED + b"2;", MEGABYTE),
    "extension-value": Script(CHUNKED + b"2;a=", MEGABYTE),
    "chunk-zeros": Script(CHUNKED, b"0" * (1 << 20)),
    "answers": Script(b"", (OK + b"content-length: 2\r\n\r\n{}") * 10_000),
    "error-body": Script(b"HTTP/1.1 400 x\r\nconnection: close\r\n\r\n", MEGABYTE),
}
"""Of each a worker reads 64 KB and the rest of one read, and keeps nothing."""
ENDLESS_ANSWERS: dict[str, Script] = {
    "plain-body": Script(PLAIN + b'{"a":"', MEGABYTE),
    "plain-answer": Script(PLAIN + WHOLE_ANSWER, MEGABYTE),
    "plain-chunks": Script(CHUNKED + b"1\r\n{\r\n", b"1000\r\n" + b"a" * 4096 + b"\r\n"),
    "blanks": Script(PLAIN, b" " * (1 << 20)),
}
"""Of each a worker reads `worker.max_answer_bytes`."""
ENDLESS_EVENTS: dict[str, Script] = {
    "sse-line": Script(SSE + b"data: ", MEGABYTE),
    "sse-field": Script(SSE, MEGABYTE),
    "sse-comment": Script(SSE + b": ", MEGABYTE),
    "sse-event": Script(SSE, b"data: a\n" * 10_000),
    "sse-chunk": Script(SSE + CHUNK, MEGABYTE),
}
"""Of each a worker reads the 16 MiB that one event may have."""
SCRIPTS: dict[str, Script] = {
    **ENDLESS_HEADS,
    **ENDLESS_ANSWERS,
    **ENDLESS_EVENTS,
    "json-bomb": Script(PLAIN + b'{"choices":[' + b"{}," * 1_200_000 + b"0]}"),
    "json-bomb-in-event": Script(SSE + b'data: {"choices":[' + b"[]," * 1_200_000 + b"0]}\n\n"),
    "lines-bomb": Script(SSE + b"data:\n" * 1_100_000 + b"\n"),
    "events-bomb": Script(SSE + b"data: 1\n\n" * 600_000),
    "chunks": Script(SSE, CHUNK + b"a" * 1000 + b'"}}]}\n\n'),
    "smallest-chunks": Script(CHUNKED + b"1\r\n{\r\n", b"1\r\na\r\n" * 10_000),
    "sse-comments": Script(SSE, b": a\n\n" * 10_000),
    "sse-blanks": Script(SSE, b"\n" * (1 << 20)),
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
    "key-base64": _refusal(b"400", _said(message=KEY_BASE64)),
    "key-in-event": Script(SSE + b"data: " + _said(message=f"bad {KEY}") + b"\n\n"),
    "escape-code": _refusal(b"400", _said(message="no", code="\x1b[2J\nFORGED code")),
    "escape-message": _refusal(b"400", _said(message="\x1b]0;owned\x07\r\nFORGED line")),
}
"""By the model's name, each with a way to harm or to tell what is not to be told."""
