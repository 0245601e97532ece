"""What is sent to files, uploads and batches: forms, ids, ranges and lines by name."""

from __future__ import annotations

import json
import pickle
from typing import Any

FORM = "multipart/form-data; boundary=b"
_FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nhello\r\n'
_PURPOSE = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
END = b"--b--\r\n"
GOOD = _FILE + _PURPOSE + END


def _field(name: bytes, value: bytes) -> bytes:
    return b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name, value)


FORMS: dict[str, tuple[str, bytes]] = {
    "no form": ("application/json", b"{}"),
    "a form of another kind": ("application/x-www-form-urlencoded", b"file=x&purpose=user_data"),
    "no boundary": ("multipart/form-data", GOOD),
    "an empty boundary": ("multipart/form-data; boundary=", GOOD),
    "another boundary": ("multipart/form-data; boundary=c", GOOD),
    "a boundary of 10,000 letters": (f"multipart/form-data; boundary={'b' * 10_000}", GOOD),
    "a boundary of controls": ('multipart/form-data; boundary="b\x1b[2J"', GOOD),
    "nothing": (FORM, b""),
    "only its end": (FORM, END),
    "no end": (FORM, _FILE + _PURPOSE),
    "half an end": (FORM, _FILE + _PURPOSE + b"--b-"),
    "bare line feeds": (FORM, GOOD.replace(b"\r\n", b"\n")),
    "a part without a head": (FORM, b"--b\r\n\r\nhello\r\n" + END),
    "a head without an end": (FORM, b"--b\r\nContent-Disposition: " + b"a" * 2_000_000),
    "a name without an end": (FORM, b"--b\r\n" + b"a" * 2_000_000),
    "heads without an end": (FORM, b"--b\r\n" + b"A: b\r\n" * 100_000),
    "a head without a colon": (FORM, b"--b\r\nContent-Disposition\r\n\r\nhello\r\n" + END),
    "bytes before it without end": (FORM, b"a" * 3_000_000),
    "two files": (FORM, _FILE + GOOD),
    "no file": (FORM, _PURPOSE + END),
    "a file that is a field": (FORM, _field(b"file", b"hello") + _PURPOSE + END),
    "no purpose": (FORM, _FILE + END),
    "an odd purpose": (FORM, _FILE + _field(b"purpose", b"../../etc") + END),
    "a purpose of no UTF-8": (FORM, _FILE + _field(b"purpose", b"\xff\xfe") + END),
    "a purpose of 1 MB": (FORM, _FILE + _field(b"purpose", b"a" * 1_000_000) + END),
    "a thousand fields": (FORM, b"".join(_field(b"f%d" % n, b"x") for n in range(1000)) + GOOD),
    "a hundred thousand empty parts": (FORM, b"--b\r\n\r\n\r\n" * 100_000),
    "forms in a form": (FORM, b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c--\r\n" * 20 + END),
    "an expiry before now": (FORM, _FILE + _PURPOSE + _field(b"expires_after[anchor]", b"created_at")
                             + _field(b"expires_after[seconds]", b"-1") + END),
    "an expiry of 10,000 digits": (FORM, _FILE + _PURPOSE + _field(b"expires_after[anchor]", b"created_at")
                                   + _field(b"expires_after[seconds]", b"9" * 4000) + END),
}  # fmt: skip
"""Each is refused, and nothing of it stays."""

NAMES: dict[str, bytes] = {
    "up": b"../../../../etc/passwd",
    "a drive": b"C:\\\\windows\\\\system32",
    "a null": b"a\x00b",
    "an escape": b"\x1b[2J\x07",
    "a header": b"a%0d%0aSet-Cookie: x=y",
    "a page": b"<script>alert(1)</script>.html",
    "no UTF-8": b"\xff\xfe",
    "3,000 letters": b"n" * 3000,
}
"""Names of files; a file may have any, and harms nobody by it."""

IDS: dict[str, str] = {
    "up": "../../tokens.json",
    "up, quoted": "..%2f..%2fdata%2ftokens.json",
    "up, quoted twice": "%252e%252e%252fdata",
    "two dots": "%2e%2e",
    "one dot": "%2e",
    "a null": "file-%00",
    "an escape": "%1b%5b2J",
    "a pattern": "file-*",
    "a bracket": "file-[a-z]",
    "no UTF-8": "%ff%fe",
    "195 letters": "file-" + "a" * 190,
    "5,000 letters": "file-" + "a" * 5000,
    "a backslash": "..%5c..%5ctokens.json",
    "a line feed": "file-%0aFORGED",
    "one that is none": "file-" + "0" * 32,
}
"""What stands where an id should; none names anything."""

CALLS: tuple[tuple[str, str], ...] = (
    ("GET", "/v1/files/@"),
    ("DELETE", "/v1/files/@"),
    ("GET", "/v1/files/@/content"),
    ("POST", "/v1/uploads/@/parts"),
    ("POST", "/v1/uploads/@/complete"),
    ("POST", "/v1/uploads/@/cancel"),
    ("GET", "/v1/batches/@"),
    ("POST", "/v1/batches/@/cancel"),
    ("POST", "/v1/batches/@/retry"),
    ("GET", "/v1/batches/@/results"),
)
"""Every call that takes an id, `@`."""

RANGES: dict[str, str] = {
    "an end of 5,000 digits": "bytes=0-" + "9" * 5000,
    "a start of 5,000 digits": "bytes=" + "9" * 5000 + "-",
    "5,000 digits of a tail": "bytes=-" + "9" * 5000,
    "a start of 20 digits": "bytes=" + "9" * 20 + "-",
    "the other way round": "bytes=5-2",
    "below zero": "bytes=--1",
    "nothing of a tail": "bytes=-0",
    "nothing": "bytes=-",
    "a thousand of them": "bytes=" + ",".join(f"{n}-{n}" for n in range(1000)),
    "all of it a thousand times": "bytes=" + ",".join(["0-"] * 1000),
    "of other units": "lines=0-1",
    "no numbers": "bytes=a-b",
    "a fraction": "bytes=0.5-1",
    "superscripts": "bytes=\xb2-\xb3",
}
"""Each is answered with a part, with the whole or with 416."""


def _line(**given: Any) -> bytes:
    body = {"model": "good", "messages": [{"role": "user", "content": "hi"}]}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps({**line, **given}).encode()


LINES: dict[str, bytes] = {
    "no JSON": b"hello",
    "no UTF-8": b'{"custom_id":"\xff"}',
    "a pickle": pickle.dumps({"custom_id": "a"}),
    "a list": b"[]",
    "deep lists": b"[" * 200_000,
    "two million values": b'{"custom_id":"a","body":[' + b"{}," * 2_000_000 + b"0]}",
    "NaN": b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"good","seed":NaN}}',
    "an id that is none": _line(custom_id=7),
    "no id": _line(custom_id=""),
    "one id twice": _line() + b"\n" + _line(),
    "a method that is none": _line(method="CONNECT"),
    "an address": _line(url="http://169.254.169.254/latest"),
    "a path outside": _line(url="/../../etc/passwd"),
    "another endpoint": _line(url="/v1/files"),
    "no body": _line(body=None),
    "a body that is text": _line(body="x"),
    "no model": _line(body={"messages": []}),
    "a model that is none": _line(body={"model": "nowhere", "messages": []}),
    "a stream": _line(body={"model": "good", "stream": True, "messages": [{"role": "user", "content": "hi"}]}),
}
"""Batches of one such line fail, and say so by line."""

BATCHES: dict[str, dict[str, Any]] = {
    "a file outside": {"input_file_id": "../../tokens.json"},
    "a file that is a list": {"input_file_id": ["@"]},
    "a file of 5,000 letters": {"input_file_id": "file-" + "a" * 5000},
    "a file of controls": {"input_file_id": "\x1b[2J\nFORGED"},
    "an endpoint outside": {"endpoint": "/../admin"},
    "an endpoint that is an address": {"endpoint": "http://169.254.169.254/"},
    "a window of no time": {"completion_window": "0h"},
    "a window before now": {"completion_window": "-1h"},
    "a window without end": {"completion_window": "9" * 5000 + "h"},
    "a window that is a number": {"completion_window": 24},
    "metadata of 100,000 letters": {"metadata": {"a": "b" * 100_000}},
    "metadata of a thousand": {"metadata": {f"k{n}": "v" for n in range(1000)}},
    "metadata that is text": {"metadata": "x"},
    "metadata in metadata": {"metadata": {"a": {"b": "c"}}},
}
"""Members of a batch's making, each of which has it refused."""
