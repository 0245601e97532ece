"""Clients that wait in place of going on: they drip what they send, or do not read what they asked for."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial

from tests.attack.requests import HEAD
from tests.attack.stack import BODY_SECONDS, HEADER_SECONDS, STALLED_SECONDS, Stack
from tests.attack.suite import MIB, Check, Group, Suite
from tests.support.chat import chat_body
from tests.support.waiting import wait_until

DRIP_SECONDS = 0.1
READER_BYTES = 4 * MIB
"""What an API process may hold for a stream that nobody reads: one buffer of ours, and what is on its way."""
_FORM = b'--b\r\nContent-Disposition: form-data; name="%b"; filename="x"\r\n\r\n'


def groups(suite: Suite) -> Iterator[Group]:
    """Yield those that drip, all at once, and those that do not read."""
    found = Waiting(suite)
    yield Group("slow drips", {"all are ended in their time": found.drips})
    kinds: dict[str, Check] = {
        "never read": found.never_reads,
        "read a byte now and then": found.reads_a_byte,
        "half-close and never read": partial(found.never_reads, half_closes=True),
        "half-close and read": found.half_closes_and_reads,
        "leave": found.leaves,
    }
    yield Group("readers of streams, in a crowd", kinds)


def drips_of(stack: Stack) -> dict[str, tuple[bytes, bytes, float]]:
    """Return what begins each, what drips on, and within how many seconds it must be ended."""
    token = b"Authorization: Bearer %b\r\n" % stack.token.encode()
    upload = json.dumps({"bytes": 1000, "filename": "x", "purpose": "user_data", "mime_type": "text/plain"})
    with stack.client() as client:
        made = client.post("/v1/uploads", content=upload, headers={"content-type": "application/json"}).json()["id"]
    long = b"Content-Length: 100000\r\n"
    form = b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    part = b"POST /v1/uploads/%b/parts HTTP/1.1\r\nHost: x\r\n" % made.encode()
    return {
        "a target": (b"GET /", b"a", HEADER_SECONDS),
        "a header": (b"GET / HTTP/1.1\r\nX-A: ", b"a", HEADER_SECONDS),
        "headers": (b"GET / HTTP/1.1\r\n", b"A:b\r\n", HEADER_SECONDS),
        "a body": (HEAD + token + long + b"\r\n{", b" ", BODY_SECONDS),
        "chunks": (HEAD + token + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", BODY_SECONDS),
        "a chunk's extension": (HEAD + token + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a", BODY_SECONDS),
        "a trailer": (HEAD + token + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA:", b"a", BODY_SECONDS),
        "a body without a token": (HEAD + long + b"\r\n", b"a", 1),
        "a file": (
            b"POST /v1/files HTTP/1.1\r\nHost: x\r\n" + token + long + form + _FORM % b"file",
            b"a",
            BODY_SECONDS,
        ),
        "a form's beginning": (b"POST /v1/files HTTP/1.1\r\nHost: x\r\n" + token + long + form, b"-", BODY_SECONDS),
        "a part of an upload": (part + token + long + form + _FORM % b"data", b"a", BODY_SECONDS),
    }


class Waiting:
    """The checks."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._stack = suite.stack

    def drips(self) -> None:
        """Each is ended within its limit, and two seconds, though it never pauses."""
        given = drips_of(self._stack)
        began = time.monotonic()
        with ExitStack() as held:
            left: dict[str, socket.socket] = {}
            for name, (start, _, _) in given.items():
                left[name] = held.enter_context(socket.create_connection(self._stack.address, timeout=5))
                left[name].sendall(start)
            while left:
                time.sleep(DRIP_SECONDS)
                for name, connection in list(left.items()):
                    assert time.monotonic() - began < given[name][2] + 3, f"{name} is not ended"
                    if _has_ended(connection, given[name][1]):
                        del left[name]

    def never_reads(self, *, half_closes: bool = False) -> None:
        """Their streams are cut, and what was held for them is bounded."""
        before = sum(api.memory_info().rss for api in self._stack.apis)
        with ExitStack() as held:
            crowd = self._crowd(held)
            if half_closes:
                for connection in crowd:
                    connection.shutdown(socket.SHUT_WR)
            for _ in range(5):
                self._suite.undisturbed()
            grown = sum(api.memory_info().rss for api in self._stack.apis) - before
            assert grown < len(crowd) * READER_BYTES, f"{grown / MIB:.0f} MiB"
            self._wait_until_gone(STALLED_SECONDS + 30)

    def reads_a_byte(self) -> None:
        """Whoever reads at all is not cut, costs what its buffers hold, and disturbs nobody."""
        with ExitStack() as held:
            crowd = self._crowd(held)
            ends_at = time.monotonic() + STALLED_SECONDS + 2
            while time.monotonic() < ends_at:
                for connection in crowd:
                    assert connection.recv(1), "a connection was closed"
                self._suite.undisturbed()
                time.sleep(0.3)
        self._wait_until_gone(STALLED_SECONDS + 30)

    def half_closes_and_reads(self) -> None:
        """Each gets its whole answer."""
        for connection_count in range(self._suite.readers // 5):
            request = self._request("good", f"half-closed {connection_count}")
            with socket.create_connection(self._stack.address, timeout=5) as connection:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                received = b""
                while part := connection.recv(65536):
                    received += part
            assert b"data: [DONE]" in received, received[-200:]

    def leaves(self) -> None:
        """Nothing is held for those who have left."""
        with ExitStack() as held:
            self._crowd(held)
        self._wait_until_gone(20)
        with self._stack.redis_client() as client:
            wait_until(lambda: not client.zcard("aq2:running:torrent"), 20, "the jobs to end")

    def _crowd(self, held: ExitStack) -> list[socket.socket]:
        """Return connections that have asked for more than all buffers hold; of each, little is taken by the system."""
        crowd = []
        for number in range(self._suite.readers):
            connection = held.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(10)
            connection.connect(self._stack.address)
            connection.sendall(self._request("torrent", f"reader {number}"))
            crowd.append(connection)
        return crowd

    def _request(self, name: str, prompt: str) -> bytes:
        body = json.dumps(chat_body(name, prompt, stream=True)).encode()
        return (
            HEAD + b"Authorization: Bearer %b\r\nContent-Length: %d\r\n\r\n" % (self._stack.token.encode(), len(body))
        ) + body

    def _wait_until_gone(self, seconds: float) -> None:
        wait_until(
            lambda: self._stack.open_connections() == 0, seconds, "the connections to be closed", poll_seconds=0.2
        )


def _has_ended(connection: socket.socket, drop: bytes) -> bool:
    """Send a drop; tell whether the other side has closed or reset."""
    with suppress(BlockingIOError):
        connection.setblocking(False)
        try:
            connection.send(drop)
            return connection.recv(65536) == b""
        except ConnectionError:
            return True
    return False
