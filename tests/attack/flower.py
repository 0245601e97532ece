"""Flower: nothing without its login, nothing that changes anything, no prompt and no secret on any page."""

from __future__ import annotations

import base64
import pickle
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import httpx

from tests.attack.scripts import KEY, KEY_BASE64
from tests.attack.stack import LOGIN
from tests.attack.suite import Check, Group, Suite
from tests.support.chat import CHAT, chat_body
from tests.support.waiting import wait_until

PROMPT = "canary-of-a-prompt"
PATHS = (
    "/", "/workers", "/tasks", "/broker", "/metrics", "/healthcheck", "/api/workers", "/api/tasks", "/api/task/types",
    "/api/task/info/x", "/api/queues/length", "/worker/x", "/task/x", "/static/../../../etc/passwd",
    "/static/%2e%2e/%2e%2e/etc/passwd", "//workers", "/workers/", "/WORKERS", "/login", "/logout",
)  # fmt: skip
"""Flower's pages, and ways around them."""
OPEN = ("/healthcheck", "/metrics", "/logout")
"""What is open: that it runs, numbers by names of models and workers, and a farewell."""
CHANGES = (
    "/api/task/revoke/x", "/api/task/timeout/x", "/api/task/rate-limit/x", "/api/task/apply/x", "/api/task/abort/x",
    "/api/task/async-apply/x", "/api/task/send-task/x", "/api/worker/shutdown/x", "/api/worker/pool/restart/x",
    "/api/worker/pool/grow/x", "/api/worker/queue/add-consumer/x", "/api/worker/queue/cancel-consumer/x",
)  # fmt: skip
"""What would change something, if it were let."""


def _basic(login: bytes) -> bytes:
    return b"Basic " + base64.b64encode(login)


LOGINS: dict[str, bytes] = {
    "none": b"",
    "wrong": _basic(b"aqueduct:wrong"),
    "no colon": _basic(b"aqueduct"),
    "empty": _basic(b":"),
    "no ASCII": _basic("ü:ü".encode()),
    "bytes": _basic(b"\xff\xfe:\x00"),
    "no Base64": b"Basic !!!",
    "nothing of Base64": b"Basic",
    "a pickle": _basic(pickle.dumps(("aqueduct", "x"))),
    "a long one": _basic(b"a" * 40_000 + b":x"),
    "another scheme": b"Bearer x",
    "one letter more": _basic(f"{LOGIN[0]}:{LOGIN[1]}x".encode()),
    "one letter less": _basic(f"{LOGIN[0]}:{LOGIN[1]}".encode()[:-1]),
}
"""None is let in."""
NAMES: dict[str, str] = {
    "a tag": "%3Cscript%3Ealert(1)%3C/script%3E",
    "a quote": "%22onload%3D%22x",
    "up": "..%2f..%2fetc%2fpasswd",
    "a null": "%00",
    "an escape": "%1b%5b2J",
    "no UTF-8": "%ff%fe",
    "a pickle": "%80%04cposix%0asystem%0a",
    "5,000 letters": "a" * 5000,
    "a template": "%7B%7Bhandler.settings%7D%7D",
}
"""What stands where the name of a worker or task should."""


def groups(suite: Suite) -> Iterator[Group]:
    """Yield them by what they try."""
    found = Flower(suite)
    checks: dict[str, Check] = {f"{path}, no login": partial(found.closed, path) for path in PATHS}
    checks |= {f"login: {name}": partial(found.login, header) for name, header in LOGINS.items()}
    checks |= {f"name: {name}": partial(found.name, given) for name, given in NAMES.items()}
    # A second each, as Flower asks all workers for one of that name.
    asked = list(NAMES.items())[: 2 if suite.short else None]
    checks |= {f"worker's name: {name}": partial(found.name, given, "/worker/") for name, given in asked}
    checks |= {f"{path}, logged in": partial(found.changes, path) for path in CHANGES}
    checks["pages hold no prompt and no secret"] = found.tells_no_secret
    yield Group("Flower", checks, at_once=8)
    yield Group("Flower, without end", {"a head": found.endless})


class Flower:
    """The checks."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._stack = suite.stack
        self._url = suite.stack.flower_url

    def closed(self, path: str) -> None:
        """401, or not there."""
        answer = self._get(path, b"")
        if path in OPEN:
            assert answer.status_code == 200
        else:
            assert answer.status_code in (401, 403, 404), answer.status_code
        assert b"root:" not in answer.content and b"Traceback" not in answer.content

    def login(self, header: bytes) -> None:
        """401, on every page."""
        for path in ("/workers", "/api/tasks"):
            assert self._get(path, header).status_code in (400, 401), self._get(path, header).status_code

    def name(self, given: str, *paths: str) -> None:
        """Not found, and nothing that a browser would run."""
        for path in paths or ("/task/", "/api/task/info/", "/api/task/result/"):
            answer = self._get(path + given, _basic(":".join(LOGIN).encode()))
            assert answer.status_code in (400, 403, 404, 405, 503), f"{path}: {answer.status_code}"
            is_page = "html" in answer.headers["content-type"] or "nosniff" not in str(answer.headers)
            assert not (is_page and "<script>alert" in answer.text) and "Traceback" not in answer.text, path

    def changes(self, path: str) -> None:
        """Refused though logged in."""
        for body in (b"", b'{"args":[]}', pickle.dumps("x")):
            answer = httpx.post(self._url + path, content=body, auth=LOGIN, timeout=10)
            assert answer.status_code in (400, 403, 404, 405), answer.status_code

    def tells_no_secret(self) -> None:
        """Names, states and times: no prompt, answer, key, token or password."""
        with self._stack.client() as client:
            done = client.post(CHAT, json=chat_body("good", PROMPT)).headers["x-request-id"]
            client.post(CHAT, json=chat_body("key-message-400", PROMPT))
        login = _basic(":".join(LOGIN).encode())
        wait_until(lambda: done in self._get("/api/tasks", login).text, 10, "Flower to show the request")
        workers = self._get("/api/workers?refresh=1", login)
        pages = [f"/task/{done}", f"/api/task/info/{done}", *(f"/worker/{name}" for name in workers.json())]
        told = workers.text + "".join(self._get(path, login).text for path in (*PATHS, *pages))
        redis = (self._stack.folder / "data" / "redis" / "url").read_text()
        password = httpx.URL(redis.replace("unix://", "redis://")).password
        for secret in (PROMPT, KEY, KEY_BASE64, LOGIN[1], password, *self._stack.tokens.values()):
            assert secret and secret not in told, told[max(0, told.find(secret) - 100) :][:100]

    def endless(self) -> None:
        """Ended, and Flower goes on."""
        address = httpx.URL(self._url)
        before = self._stack.flower.memory_info().rss
        with socket.create_connection((address.host, address.port or 80), timeout=5) as connection, suppress(OSError):
            connection.sendall(b"GET / HTTP/1.1\r\nX-A: ")
            for _ in range(self._suite.most_bytes // 65536):
                connection.sendall(b"a" * 65536)
            connection.recv(65536)
        time.sleep(0.1)
        assert self._stack.flower.memory_info().rss - before < 4 * 1024 * 1024
        assert self._get("/workers", b"").status_code == 401

    def _get(self, path: str, header: bytes) -> httpx.Response:
        url = httpx.URL(self._url).copy_with(raw_path=path.encode())
        return httpx.get(url, headers={b"authorization": header} if header else {}, timeout=30)
