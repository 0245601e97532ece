"""What clients send: framing, paths, tokens, bodies, things without end, crowds. Each API process is tried."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from itertools import cycle

import psutil

from tests.attack.requests import AUTHORIZATIONS, BODIES, CROWDS, ENDLESS, FRAMING, HEAD, HUNG_UP, PATHS
from tests.attack.stack import HEADER_SECONDS
from tests.attack.suite import CALM_SECONDS, Group, Suite, cost_of

_VARIES = re.compile(rb"(?i)\r\n(date|x-request-id|openai-processing-ms): [^\r]*|req[-_][0-9a-f]+|[0-9a-f]{32}")


def groups(suite: Suite) -> Iterator[Group]:
    """Yield what is sent, by what it is about."""
    found = Clients(suite)
    yield Group("framing", {name: partial(found.framing, data) for name, data in FRAMING.items()}, at_once=8)
    yield Group("paths", {name: partial(found.path, data) for name, data in PATHS.items()}, at_once=4)
    yield Group(
        "tokens", {name: partial(found.authorization, data) for name, data in AUTHORIZATIONS.items()}, at_once=8
    )
    yield Group("bodies", {name: partial(found.body, data) for name, data in BODIES.items()}, at_once=2)
    yield Group("endless", {name: partial(found.endless, *pair) for name, pair in ENDLESS.items()})
    yield Group("endless, and hung up on", {name: partial(found.hung_up, piece) for name, piece in HUNG_UP.items()})
    crowds = {name: partial(found.crowd_of, begin) for name, begin in CROWDS.items()}
    yield Group("crowds", crowds, at_once=len(crowds) if suite.short else 1)


class Clients:
    """The checks."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._stack = suite.stack
        self._apis = cycle(suite.stack.apis)

    def _send(self, data: bytes, seconds: float = 1.0) -> bytes:
        """Send bytes to each API process; return the answer, in which they must not differ."""
        answers = [self._answer(api, data, seconds) for api in self._stack.apis]
        shapes = {_VARIES.sub(b"", answer) for answer in answers}
        assert len(shapes) == 1, shapes
        return answers[0]

    def _answer(self, api: psutil.Process, data: bytes, seconds: float) -> bytes:
        """Return all that comes until the connection is closed or silent."""
        received = b""
        with self._stack.connect(api, seconds) as connection, suppress(OSError):
            connection.sendall(data)
            while part := connection.recv(65536):
                received += part
        return received

    def framing(self, data: bytes) -> None:
        """Never more than one answer, and no good one."""
        answer = self._send(data)
        assert answer.count(b"HTTP/1.1 ") <= 1, answer
        assert not answer or 400 <= int(answer.split()[1]) < 502, answer

    def path(self, target: bytes) -> None:
        """An error or a page of ours, with nothing of the machine in it."""
        answer = self._send(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % target)
        assert answer.split()[1] in (b"400", b"401", b"404", b"405", b"431"), answer[:300]
        assert b"root:" not in answer and b"Traceback" not in answer

    def authorization(self, header: bytes) -> None:
        """No entry, told in OpenAI's words."""
        header = header.replace(b"@TOKEN@", self._stack.token.encode())
        # An unknown token is looked for in Redis, at most once a second.
        answer = self._send(HEAD + header + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}", 5.0)
        assert answer.split()[1] == b"401", answer[:300]
        assert self._stack.token.encode() not in answer

    def body(self, body: bytes) -> None:
        """Refused at once as an OpenAI error."""
        began = time.monotonic()
        head = HEAD + b"Authorization: Bearer %b\r\nConnection: close\r\n" % self._stack.token.encode()
        answer = self._send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body, 10.0)
        assert 400 <= int(answer.split()[1]) < 500, answer[:300]
        assert b'{"error":{"message":' in answer and b'"code":' in answer and b'"param":' in answer, answer[:300]
        assert time.monotonic() - began < CALM_SECONDS

    def endless(self, start: bytes, piece: bytes) -> None:
        """Costs next to nothing, and is refused or cut."""
        api = next(self._apis)
        self._flood(api, start, piece)  # what a process takes at the first time, it keeps
        with cost_of(api):
            answer = self._flood(api, start, piece)
        assert not answer or answer.startswith(b"HTTP/1.1 4"), answer[:200]

    def hung_up(self, piece: bytes) -> None:
        """As `endless`, with answers that are good and that nobody reads."""
        api = next(self._apis)
        self._flood(api, b"", piece)
        with cost_of(api):
            answer = self._flood(api, b"", piece)
        assert answer.count(b"HTTP/1.1 ") < 100

    def _flood(self, api: psutil.Process, start: bytes, piece: bytes) -> bytes:
        """Send until no more is taken; returns the beginning of what was answered."""
        data = piece * (65536 // len(piece))
        sent, answer = 0, b""
        with self._stack.connect(api, 4) as connection, suppress(OSError):
            try:
                connection.sendall(start)
                while sent < self._suite.most_bytes:
                    sent += connection.send(data)
            except OSError:
                pass
            connection.settimeout(5)
            answer = connection.recv(65536)
            while connection.recv(65536):
                pass
        return answer

    def crowd_of(self, begin: bytes) -> None:
        """Others are served meanwhile, and the connections are gone in their time."""
        with ExitStack() as held:
            for _ in range(self._suite.crowd):
                connection = held.enter_context(socket.create_connection(self._stack.address, timeout=5))
                if begin:
                    connection.sendall(begin)
            for _ in range(10):
                self._suite.undisturbed()
            deadline = time.monotonic() + HEADER_SECONDS + 6
            while (left := self._stack.open_connections()) > self._suite.crowd // 10:
                assert time.monotonic() < deadline, f"{left} connections stay"
                time.sleep(0.2)
