"""What must never get in or out: pickles, foreign tasks, smuggled requests, huge headers, tokens in logs, floods."""

from __future__ import annotations

import ast
import base64
import json
import socket
import struct
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import redis

from shared import keys
from shared.broker import ticket
from tests.support.calls import Call
from tests.support.chat import chat_body
from tests.support.models import model
from tests.support.processes import ROOT, RedisServer
from tests.support.raw import chat_request, connect
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

MODELS = {
    "short": model("tokens=3"),
    "unserved": model(),
    "thinks": model("first_token_seconds=30&answer_seconds=30", concurrency=20, max_queue=2000, timeout_seconds=60),
}
FLOOD = 1000


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, backend: DemoBackend
) -> Iterator[System]:
    with System(
        tmp_path_factory.mktemp("system"), redis_url=module_redis.url, backend_url=backend.url, models=MODELS,
        settings={"log_level": "debug"}, workers=[["short", "thinks"]],
    ) as running:  # fmt: skip
        yield running


# --- the queue -----------------------------------------------------------------------------------------------------


def message(**changes: Any) -> bytes:
    """Return a ticket with parts of it replaced, as somebody who can write to Redis might push it."""
    envelope: dict[str, Any] = json.loads(ticket("short").replace(b"@ID@", uuid.uuid4().hex.encode()))
    headers = {**envelope["headers"], **changes.pop("headers", {})}
    return json.dumps({**envelope, "headers": headers, **changes}).encode()


def pickle_that_writes(path: Path) -> str:
    """Return a pickle, in base64, that makes a file when it is loaded (written by hand: nothing here pickles)."""
    program = b"cposix\nsystem\n(S'touch " + str(path).encode() + b"'\ntR."
    return base64.b64encode(program).decode()


def hostile_messages(path: Path) -> dict[str, bytes]:
    return {
        "a pickle": message(body=pickle_that_writes(path), **{"content-type": "application/x-python-serialize",
                                                              "content-encoding": "binary"}),
        "a pickle said to be JSON": message(body=pickle_that_writes(path)),
        "YAML": message(body=base64.b64encode(b"!!python/object/apply:os.system ['true']").decode(),
                        **{"content-type": "application/x-yaml"}),
        "a foreign task": message(headers={"task": "os.system"}),
        "a task of Celery's own": message(headers={"task": "celery.backend_cleanup"}),
        "a ticket for a foreign model": message(body=base64.b64encode(b'[["no-such-model"], {}, {}]').decode()),
        "wrong arguments": message(body=base64.b64encode(b'[[1, 2, 3], {"a": 1}, {}]').decode()),
    }  # fmt: skip


def test_hostile_messages_are_rejected_and_the_worker_lives(served: System, rooms: redis.Redis, tmp_path: Path) -> None:
    made = tmp_path / "made-by-a-pickle"
    (worker,) = served.workers
    for name, hostile in hostile_messages(made).items():
        rooms.lpush(keys.queue("short"), hostile)
        wait_until(lambda: rooms.llen(keys.queue("short")) == 0, 10, f"{name} to be consumed")
        Call(served, "short", f"after {name}").wait(10).assert_complete(3)
        assert worker.running, name
    assert not made.exists()


def test_nothing_here_pickles() -> None:
    found = []
    for folder in ("aqueduct", "api", "workers", "shared"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if {"pickle", "marshal", "shelve", "dill", "cloudpickle"}.intersection(names):
                    found.append(str(path))
    assert not found


# --- HTTP ----------------------------------------------------------------------------------------------------------

NEXT = b"GET /healthz HTTP/1.1\r\n\r\n"
"""The request that a smuggler hides in the body of another."""
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SMUGGLED = {
    "length and chunks": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 30\r\n\r\n{}" + NEXT,
    "a signed length": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "a bad length": HEAD + b"Content-Length: 2x\r\n\r\n{}",
    "a space before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a bad chunk size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "chunked twice over": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a folded header": HEAD + b"X-A: b\r\n c: d\r\nContent-Length: 2\r\n\r\n{}",
    "bare line feeds": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}" + NEXT,
    "a null byte": HEAD + b"X-A: b\x00c\r\nContent-Length: 2\r\n\r\n{}",
}  # fmt: skip


def raw(system: System, data: bytes) -> bytes:
    """Send bytes on a connection of their own; return all that comes until it closes or is silent."""
    received = b""
    with connect(system, timeout_seconds=1.5) as connection:
        connection.sendall(data)
        try:
            while part := connection.recv(65536):
                received += part
        except (TimeoutError, ConnectionResetError):
            pass
    return received


@pytest.mark.parametrize("name", SMUGGLED)
def test_a_request_that_two_servers_could_read_differently_is_never_two(served: System, name: str) -> None:
    answer = raw(served, SMUGGLED[name])
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert status in (400, 401), answer  # 401: it was read as one request, in the one way the standard allows
    assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}
    assert b"x-request-id: " in head.lower()
    if status == 401:
        assert name in ("a folded header",), answer
    else:
        assert b"connection: close" in head.lower()


@pytest.mark.parametrize("many", [False, True], ids=["one large header", "many small ones"])
def test_oversized_headers_are_431(served: System, many: bool) -> None:
    headers = [(f"x-{n}", "y" * 100) for n in range(1000)] if many else [("x-large", "y" * 70_000)]
    answer = httpx.get(f"{served.base_url}/v1/models", headers=headers)
    assert (answer.status_code, answer.reason_phrase) == (431, "Request Header Fields Too Large")
    assert answer.json()["error"]["code"] == "headers_too_large"


def test_tokens_are_never_logged(served: System) -> None:
    with served.client() as client:
        assert client.get("/v1/models").status_code == 200
    wrong = "sk-a-wrong-token-that-must-not-be-logged"
    with served.client(wrong) as client:
        assert client.get("/v1/models").status_code == 401
        assert wrong not in client.get(f"/v1/{wrong[:5]}").text
    last = Call(served, "short", "logged").wait(10)
    last.assert_complete(3)
    wait_until(lambda: last.request_id in served.logs(), 10, "the last request's line")
    logs = served.logs()
    assert "/v1/models" in logs
    for secret in (served.token, wrong):
        assert secret not in logs


def test_a_path_cannot_forge_a_line_of_the_log(served: System) -> None:
    raw(served, b"GET /x%0a2026-01-31T12:00:00.000Z%20CRITICAL%20aqueduct%20FORGED%1b[2J HTTP/1.1\r\nHost: x\r\n\r\n")
    wait_until(lambda: "FORGED" in served.logs(), 10, "the request's line")
    (line,) = [line for line in served.logs().splitlines() if "FORGED" in line]
    assert "GET /x%0a2026-01-31T12:00:00.000Z%20CRITICAL%20aqueduct%20FORGED%1b[2J request_id=" in line


FORWARDED = ["x-forwarded-for", "x-forwarded-proto", "x-real-ip", "forwarded"]


@pytest.mark.parametrize("header", FORWARDED)
def test_readyz_names_models_only_on_the_machine_itself(served: System, header: str) -> None:
    url = f"{served.base_url}/readyz"
    assert httpx.get(url).json() == {"status": "ready", "unserved": ["unserved"]}
    assert httpx.get(url, headers={header: "203.0.113.7"}).json() == {"status": "ready", "unserved": 1}


def test_readyz_asked_over_and_over_asks_redis_now_and_then(served: System, rooms: redis.Redis) -> None:
    def scripts_run() -> int:
        commands: dict[str, Any] = dict(rooms.info("commandstats"))
        return sum(found["calls"] for name, found in commands.items() if name in ("cmdstat_evalsha", "cmdstat_fcall"))

    before = scripts_run()
    with httpx.Client(base_url=served.base_url) as client:
        for _ in range(400):
            assert client.get("/readyz").status_code == 200
    assert scripts_run() - before < 200


# --- floods --------------------------------------------------------------------------------------------------------


def post_and_leave(system: System, *, reset: bool) -> None:
    """Post a request and close the connection at once, or reset it."""
    with connect(system) as connection:
        connection.sendall(chat_request(system, chat_body("thinks", "flood", stream=True)))
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_flood_of_clients_that_post_and_leave_holds_nothing(
    served: System, rooms: redis.Redis, backend: DemoBackend
) -> None:
    assert served.api is not None
    process = psutil.Process(served.api.pid)
    before = process.num_fds()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: post_and_leave(served, reset=number % 2 == 0), range(FLOOD)))
    Call(served, "short", "after the flood", stream=False).wait(5).assert_complete(3)
    names = (keys.PREFIXES["waits"] + "thinks", keys.running("thinks"), keys.lane("default", "thinks"))
    wait_until(lambda: not rooms.exists(*names), 10, "room and slots to be empty")
    wait_until(lambda: not rooms.keys("aq2:body:*") and not rooms.keys("aq2:owned:*"), 10, "what the jobs held")
    wait_until(lambda: backend.state()["open_requests"] == 0, 10, "the backend's calls to be closed")
    wait_until(lambda: process.num_fds() <= before + 5, 10, "the connections to be closed")
    assert all(worker.running for worker in served.workers)
    assert served.api.log().count("status=499") > FLOOD / 4, "they did not leave in the middle"
