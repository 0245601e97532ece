"""`Idempotency-Key`: odd ones, others', and thousands of them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import httpx
import psutil

from tests.attack.requests import HEAD
from tests.attack.stack import Stack
from tests.attack.suite import MIB, Check, Group, Suite
from tests.support.chat import CHAT, chat_body

RECORD_SECONDS = 60 + 1
"""How long after a job's end what its key stands for may be found."""
BYTES_A_KEY = 4096
ODD: dict[str, tuple[bytes, tuple[int, ...]]] = {
    "the longest": (b"k" * 255, (200,)),
    "one too long": (b"k" * 256, (400,)),
    "a very long one": (b"k" * 60_000, (400,)),
    "one without end": (b"k" * 200_000, (431,)),
    "nothing": (b"", (400,)),
    "no ASCII": (b"\xff\xfe", (400,)),
    "a control": (b"a\x01b", (400,)),
    "an escape": (b"\x1b[2J", (400,)),
    "a null": (b"a\x00b", (400,)),
    "a tab": (b"a\tb", (200,)),
    "the name of a key": (b"aq:tokens", (200,)),
    "a pattern": (b"*", (200,)),
    "a path": (b"../../etc/passwd", (200,)),
    "Redis's own words": (b"x' SET aq:tokens 1", (200,)),
}
"""What is sent as a key, and how it may be answered."""


def groups(suite: Suite) -> Iterator[Group]:
    """Yield the odd ones, and what keys could be misused for."""
    found = Keys(suite)
    checks: dict[str, Check] = {name: partial(found.odd, *given) for name, given in ODD.items()}
    checks["of another tenant"] = found.another_tenants
    checks["with another body"] = found.another_body
    checks["at both processes"] = found.both_processes
    checks["twice in one request"] = found.twice
    checks["thousands"] = found.thousands
    checks["of requests that are refused"] = found.refused
    yield Group("idempotency keys", checks)


class Keys:
    """The checks."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._stack: Stack = suite.stack
        self._clients = {tenant: suite.stack.lasting_client(tenant) for tenant in ("test", "other", "cheap")}

    def odd(self, key: bytes, statuses: tuple[int, ...]) -> None:
        """Taken as it is, or refused."""
        answer = self._raw(b"Idempotency-Key: %b\r\n" % key)
        assert int(answer.split()[1]) in statuses, answer[:300]
        assert answer.count(b"HTTP/1.1 ") == 1

    def another_tenants(self) -> None:
        """The same key of another tenant stands for another request."""
        key = secrets.token_hex(8)
        first, again, other = self._ask(key), self._ask(key), self._ask(key, tenant="other")
        assert first.json()["id"] == again.json()["id"] != other.json()["id"]

    def another_body(self) -> None:
        """A key stands for one body."""
        key = secrets.token_hex(8)
        assert self._ask(key).status_code == 200
        other = self._ask(key, prompt="another")
        assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
        assert self._ask(key).status_code == 200

    def both_processes(self) -> None:
        """Whichever process takes it, it is one request."""
        header = b"Idempotency-Key: %b\r\n" % secrets.token_hex(8).encode()
        ids = set()
        for api in self._stack.apis:
            answer = self._raw(header, process=api)
            ids.add(answer.partition(b'"id":"')[2].partition(b'"')[0])
        assert len(ids) == 1 and ids != {b""}, ids

    def twice(self) -> None:
        """Two keys in one request never join two requests."""
        first, second = secrets.token_hex(8), secrets.token_hex(8)
        one, other = self._ask(first).json()["id"], self._ask(second).json()["id"]
        answer = self._raw(f"Idempotency-Key: {first}\r\nIdempotency-Key: {second}\r\n".encode())
        assert int(answer.split()[1]) in (200, 400)
        assert one.encode() not in answer or other.encode() not in answer

    def thousands(self) -> None:
        """All of them go soon, and until then hold little."""
        with self._stack.redis_client() as client:
            known = set(client.scan_iter("aq2:idempotency:*", count=10_000))
            before = client.info("memory")["used_memory"]
            with ThreadPoolExecutor(8) as pool:
                statuses = set(pool.map(self._status, range(self._suite.keys)))
            assert statuses == {200}, statuses
            grown = client.info("memory")["used_memory"] - before
            found = set(client.scan_iter("aq2:idempotency:*", count=10_000)) - known
            lives = {client.ttl(name) for name in found}
        assert max(lives, default=0) <= RECORD_SECONDS, lives
        assert -1 not in lives, "a key stays for ever"
        assert grown < self._suite.keys * BYTES_A_KEY + MIB, f"{grown / MIB:.1f} MiB"

    def refused(self) -> None:
        """A request that is refused leaves no key; one that repeats an answered one costs nothing and is answered."""
        with self._stack.redis_client() as client:
            first = self._ask("first", tenant="cheap").json()["id"]
            assert self._ask("first", tenant="cheap").json()["id"] == first
            before = set(client.scan_iter("aq2:idempotency:*", count=10_000))
            for number in range(20):
                assert self._ask(f"refused {number}", tenant="cheap").status_code == 429
            assert not set(client.scan_iter("aq2:idempotency:*", count=10_000)) - before

    def _status(self, number: int) -> int:
        return self._ask(f"{number} of thousands").status_code

    def _ask(self, key: str, *, tenant: str = "test", prompt: str = "hi") -> httpx.Response:
        headers = {"idempotency-key": key, "content-type": "application/json"}
        return self._clients[tenant].post(CHAT, content=_body(prompt), headers=headers)

    def _raw(self, header: bytes, process: psutil.Process | None = None) -> bytes:
        """Send a request with this header as it is; return all of the answer."""
        body = _body("hi")
        head = HEAD + b"Authorization: Bearer %b\r\nConnection: close\r\n" % self._stack.token.encode()
        received = b""
        with self._stack.connect(process) as connection, suppress(ConnectionError):
            connection.sendall(head + header + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            while part := connection.recv(65536):
                received += part
        return received


def _body(prompt: str) -> bytes:
    return json.dumps(chat_body("good", prompt)).encode()
