"""Structured output over real processes: checked, asked for again, and told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from openai import InternalServerError, OpenAI

from tests.support.processes import RedisServer
from tests.support.system import System

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "number", "schema": SCHEMA, "strict": True}}
GOOD, BAD = '{"n": 1}', '{"n": "canary-word"}'


class Scripted:
    """A backend: the first message lists its answers; given one back, it gives the next."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                scripted.bodies.append(body)
                answers = json.loads(body["messages"][0]["content"])
                given = [message["content"] for message in body["messages"] if message["role"] == "assistant"]
                text = answers[answers.index(given[-1]) + 1 if given else 0]
                choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
                answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
                data = json.dumps(answer | {"usage": usage}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                """Keep the test's output clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture(scope="module")
def backend() -> Iterator[Scripted]:
    made = Scripted()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, backend: Scripted) -> Iterator[System]:
    modes = ("passthrough", "validate", "retry")
    models = {mode: {"structured_output": mode, "backends": [{"model": "m"}]} for mode in modes}
    folder = tmp_path_factory.mktemp("structured")
    with System(folder, redis_url=module_redis.url, backend_url=backend.url, models=models) as running:
        yield running


@pytest.fixture
def sdk(system: System, backend: Scripted) -> Iterator[OpenAI]:
    backend.bodies.clear()
    with OpenAI(base_url=system.base_url, api_key=system.token, max_retries=0) as client:
        yield client


def ask(sdk: OpenAI, model: str, *answers: str, size: int = 0, **more: Any) -> Any:
    messages: Any = [{"role": "user", "content": json.dumps(answers)}, {"role": "system", "content": "x" * size}]
    return sdk.chat.completions.create(model=model, messages=messages, response_format=FORMAT, **more)


def test_a_breach_passes_where_nothing_is_checked(sdk: OpenAI) -> None:
    assert ask(sdk, "passthrough", BAD).choices[0].message.content == BAD


@pytest.mark.parametrize("model", ["validate", "retry"])
def test_what_fits_passes_with_one_call(sdk: OpenAI, backend: Scripted, model: str) -> None:
    assert ask(sdk, model, GOOD).choices[0].message.content == GOOD
    assert len(backend.bodies) == 1


def test_a_breach_is_an_error_with_its_place(sdk: OpenAI, backend: Scripted) -> None:
    with pytest.raises(InternalServerError) as caught:
        ask(sdk, "validate", BAD)
    assert caught.value.code == "structured_output_mismatch"
    assert "choice 0, $.n breaks `type`" in str(caught.value)
    assert "canary-word" not in str(caught.value)
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(backend.bodies) == 1


@pytest.mark.parametrize("size", [0, 3 << 20], ids=["small", "large"])
def test_the_model_is_asked_again_and_told_what_was_wrong(sdk: OpenAI, backend: Scripted, size: int) -> None:
    assert ask(sdk, "retry", BAD, "no json", GOOD, size=size).choices[0].message.content == GOOD
    first, second, third = backend.bodies
    assert [message["role"] for message in second["messages"]] == ["user", "system", "assistant", "user"]
    assert second["messages"][2]["content"] == BAD
    assert "$.n breaks `type`" in second["messages"][3]["content"]
    assert "is no JSON" in third["messages"][-1]["content"]
    assert first["response_format"] == second["response_format"] == FORMAT


def test_after_so_many_asks_it_is_an_error_and_the_backend_is_not_blamed(sdk: OpenAI, backend: Scripted) -> None:
    for _ in range(4):
        with pytest.raises(InternalServerError, match="does not fit the schema"):
            ask(sdk, "retry", BAD, BAD, BAD, GOOD)
    assert len(backend.bodies) == 12
    assert ask(sdk, "retry", GOOD).choices[0].message.content == GOOD, "its backend would be ejected by now"


def test_a_stream_passes_and_says_that_nobody_looked(sdk: OpenAI, system: System) -> None:
    body = {
        "model": "validate",
        "messages": [{"role": "user", "content": json.dumps([BAD])}],
        "response_format": FORMAT,
    }
    with system.client() as client:
        answer = client.post("/v1/chat/completions", json={**body, "stream": True})
        assert answer.headers["x-aqueduct-structured-output"] == "unchecked"
        assert answer.text.endswith("data: [DONE]\n\n")
        plain = client.post("/v1/chat/completions", json={**body, "model": "passthrough"})
        assert "x-aqueduct-structured-output" not in plain.headers


def test_a_schema_that_is_none_is_the_callers_fault(sdk: OpenAI, system: System) -> None:
    bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "http://127.0.0.1:9/x"}}}
    body = {"model": "validate", "messages": [{"role": "user", "content": "[]"}], "response_format": bad}
    with system.client() as client:
        answer = client.post("/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "response_format")
