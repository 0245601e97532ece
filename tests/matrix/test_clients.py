"""Every client's requests, byte by byte, through the whole gateway to a backend that keeps what it was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import h11
import pytest

from tests.matrix import reading
from tests.matrix.cases import FOLDER, Case, read
from tests.matrix.requests import Request, requests
from tests.matrix.requests import read as read_requests
from tests.matrix.server import Json, serving
from tests.support.processes import RedisServer
from tests.support.raw import connect
from tests.support.system import System

REQUESTS = [pytest.param(request, id=f"{request.client}-{request.name}") for request in requests()]


@pytest.fixture(scope="module")
def asked() -> list[Json]:
    """Return the list that gets what the backend is asked."""
    return []


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, asked: list[Json]) -> Iterator[System]:
    """One gateway whose only model answers as vLLM does, whatever it is asked."""
    text = next(case for case in read("vllm", (FOLDER / "vllm.txt").read_bytes()) if case.name == "text")
    with serving([Case("client", "whatever", text.expected, text.bodies)], asked) as url:
        models: dict[str, Any] = {"client": {"backends": [{"url": f"{url}/client/as-asked"}], "max_attempts": 1}}
        folder = tmp_path_factory.mktemp("clients")
        with System(folder, redis_url=module_redis.url, backend_url=url, models=models) as system:
            yield system


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_client_is_answered_and_what_it_said_arrives(gateway: System, asked: list[Json], request_: Request) -> None:
    asked.clear()
    host = ":".join(map(str, gateway.address))
    status, body = exchange(gateway, request_.to(host, gateway.token))
    told = told_of(body)
    assert {"status": status, **{name: told.get(name) for name in request_.expected if name != "status"}} == (
        request_.expected
    ), body
    assert len(asked) == (1 if status == 200 and "models" not in told else 0)
    for name, value in request_.sent.items():
        assert asked[0].get(name) == value, asked


def exchange(gateway: System, data: bytes) -> tuple[int, bytes]:
    """Send the bytes and return status and body of the answer, read by the rules of HTTP/1.1 and nothing else."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
    reader.send(h11.EndOfMessage())
    status, body = 0, b""
    with connect(gateway) as connection:
        connection.sendall(data)
        while not isinstance(event := reader.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                reader.receive_data(connection.recv(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
    return status, body


def told_of(body: bytes) -> Json:
    """Return what a client reads, in the terms of `expect`."""
    if not body.startswith(b"{"):
        events = [part[6:] for part in body.split(b"\n\n") if part.startswith(b"data: {")]
        assert body.endswith(b"data: [DONE]\n\n")
        return reading.of_chunks([json.loads(event) for event in events])
    answer = json.loads(body)
    if answer.get("object") == "list":
        return {"models": [model["id"] for model in answer["data"]]}
    return reading.of_answer(answer) if "choices" in answer else dict(answer["error"])


def test_a_file_without_the_form_is_told() -> None:
    for text in (b"== one\nexpect {}\n", b"== one\n-- request\nPOST / HTTP/1.1\n\n", b"== one\nwrong {}\n-- request\n"):
        with pytest.raises(ValueError, match="a request has an `expect`"):
            read_requests("odd", text)
