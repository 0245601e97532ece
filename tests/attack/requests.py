"""What hostile clients send: bytes by name, and the statuses with which they may be answered."""

from __future__ import annotations

import json

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /healthz HTTP/1.1\r\n\r\n"

FRAMING: dict[str, bytes] = {
    "length and chunks": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + NEXT,
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 30\r\n\r\n{}" + NEXT,
    "a signed length": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "a negative length": HEAD + b"Content-Length: -2\r\n\r\n{}",
    "a hexadecimal length": HEAD + b"Content-Length: 0x2\r\n\r\n{}",
    "a length of 2^65": HEAD + b"Content-Length: 36893488147419103232\r\n\r\n{}",
    "a list of lengths": HEAD + b"Content-Length: 2, 2\r\n\r\n{}" + NEXT,
    "a space before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a name without a value": HEAD + b"X-A\r\n\r\n",
    "a name that is empty": HEAD + b": b\r\n\r\n",
    "a null byte": HEAD + b"X-A: b\x00c\r\nContent-Length: 2\r\n\r\n{}",
    "a null byte in a name": HEAD + b"X\x00A: b\r\n\r\n",
    "bare line feeds": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}" + NEXT,
    "bare returns": HEAD.replace(b"\r\n", b"\r") + b"\r\r" + NEXT,
    "chunked not last": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a bad chunk size": CHUNKS + b"zz\r\n{}\r\n0\r\n\r\n",
    "a negative chunk size": CHUNKS + b"-2\r\n{}\r\n0\r\n\r\n",
    "a chunk size of 2^68": CHUNKS + b"fffffffffffffffff\r\n{}\r\n",
    "a hexadecimal mark": CHUNKS + b"0x2\r\n{}\r\n0\r\n\r\n",
    "a chunk without its end": CHUNKS + b"2\r\n{}x0\r\n\r\n" + NEXT,
    "no version": b"GET /nowhere\r\n\r\n",
    "a version to come": b"GET /healthz HTTP/7.7\r\n\r\n",
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    "a CONNECT": b"CONNECT 127.0.0.1:6379 HTTP/1.1\r\nHost: x\r\n\r\n" + NEXT,
    "an unknown method": b"HACK / HTTP/1.1\r\nHost: x\r\n\r\n",
    "Redis's own words": b"*1\r\n$4\r\nPING\r\n",
}
"""Each is answered once at most, and never as two requests."""

PATHS: dict[str, bytes] = {
    "up": b"/../../etc/passwd",
    "up, quoted": b"/%2e%2e/%2e%2e/etc/passwd",
    "up, quoted twice": b"/%252e%252e/etc/passwd",
    "up from models": b"/v1/models/../../etc/passwd",
    "a model outside": b"/v1/models/..%2f..%2fetc%2fpasswd",
    "a null": b"/v1/models/%00",
    "overlong UTF-8": b"/%c0%ae%c0%ae/etc/passwd",
    "no UTF-8": b"/%ff%fe",
    "parameters": b"/v1/models;/../admin",
    "a backslash": b"/..\\..\\etc\\passwd",
    "many parts": b"/a" * 20_000,
    "an escape": b"/x%1b[2J%0aFORGED",
    "debug": b"/debug/requests",
    "files": b"/.env",
    "configuration": b"/aqueduct.yaml",
    "a query of keys": b"/v1/models?api_key=x&token=y",
}
"""None names anything of ours; none tells of the machine."""

_MESSAGES = [{"role": "user", "content": "hi"}]


def _body(**given: object) -> bytes:
    return json.dumps({"model": "good", "messages": _MESSAGES, **given}).encode()


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "half of it": b'{"model":"good"',
    "two of them": b"{}{}",
    "no UTF-8": b'{"model":"\xff"}',
    "UTF-16": '{"model":"good"}'.encode("utf-16"),
    "NaN": b'{"model":"good","temperature":NaN}',
    "infinity": b'{"model":"good","temperature":1e999,"messages":[]}',
    "deep lists": b"[" * 200_000,
    "deep objects": b'{"a":' * 200_000,
    "deep and closed": b'{"model":"good","messages":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "two million values": b'{"model":"good","x":[' + b"{}," * 2_000_000 + b"0]}",
    "a number of 100,000 digits": b'{"model":"good","seed":' + b"9" * 100_000 + b"}",
    "no model": _body(model=None),
    "a model that is a list": _body(model=["good"]),
    "a model with controls": _body(model="\x1b[2J\nFORGED"),
    "a model outside": _body(model="../../good"),
    "a model of half a pair": b'{"model":"\\ud800","messages":[]}',
    "a model of 60,000 letters": _body(model="m" * 60_000),
    "messages in text": _body(messages="hi"),
    "messages of null": _body(messages=[None]),
    "no messages": _body(messages=[]),
    "a role that is none": _body(messages=[{"role": 7, "content": "x"}]),
    "a million answers": _body(n=1_000_000),
    "no answers": _body(n=-1),
    "too hot": _body(temperature=1e300),
    "a stream that is text": _body(stream="yes"),
    "options of 20 KB": _body(stream=True, stream_options={"x": "a" * 20_000}),
    "a negative limit": _body(max_tokens=-1),
    "stops without end": _body(stop=["a"] * 10_000),
    "tools that are none": _body(tools=[1]),
    "a lane that is none": _body(service_tier={"a": 1}),
}
"""Each is refused as an OpenAI error, at once."""

AUTHORIZATIONS: dict[str, bytes] = {
    "none": b"",
    "empty": b"Authorization:\r\n",
    "no scheme": b"Authorization: @TOKEN@\r\n",
    "Basic": b"Authorization: Basic @TOKEN@\r\n",
    "no token": b"Authorization: Bearer \r\n",
    "a wrong token": b"Authorization: Bearer sk-wrong\r\n",
    "a longer token": b"Authorization: Bearer @TOKEN@x\r\n",
    "two in one": b"Authorization: Bearer @TOKEN@ @TOKEN@\r\n",
    "bytes": b"Authorization: Bearer \xff\xfe\xfd\r\n",
    "a long one": b"Authorization: Bearer " + b"a" * 60_000 + b"\r\n",
    "another header": b"X-Api-Token: @TOKEN@\r\n",
    "a wildcard": b"Authorization: Bearer *\r\n",
}
"""Each is a 401."""

ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "target": (b"GET /", b"a"),
    "query": (b"GET /?", b"a"),
    "method": (b"", b"A"),
    "header value": (b"GET /healthz HTTP/1.1\r\nX-A: ", b"a"),
    "header name": (b"GET /healthz HTTP/1.1\r\n", b"a"),
    "headers": (b"GET /healthz HTTP/1.1\r\n", b"X-A: b\r\n"),
    "chunk size": (CHUNKS, b"0"),
    "chunk extension": (CHUNKS + b"1;", b"a"),
    "trailer value": (CHUNKS + b"0\r\nX-A: ", b"a"),
    "trailer name": (CHUNKS + b"0\r\n", b"a"),
    "trailers": (CHUNKS + b"0\r\n", b"X-A: b\r\n"),
    "lines before a request": (b"", b"\r\n"),
    "body without a token": (HEAD + b"Content-Length: 900000000\r\n\r\n", b"a"),
    "chunks without a token": (CHUNKS, b"8\r\naaaaaaaa\r\n"),
}
"""A beginning and what follows without end."""

HUNG_UP: dict[str, bytes] = {
    "requests": b"GET /healthz HTTP/1.1\r\n\r\n",
    "the shortest requests": b"GET / HTTP/1.1\r\n\r\n",
    "requests without a token": HEAD + b"Content-Length: 2\r\n\r\n{}",
}
"""Whole requests, one behind the other without end, whose answers nobody reads."""

CROWDS: dict[str, bytes] = {
    "silent": b"",
    "half a head": b"GET / HTTP/1.1\r\nX-A: b",
    "half a body": HEAD + b"Content-Length: 9\r\n\r\n{",
}
"""What each of many connections says before it falls silent."""
