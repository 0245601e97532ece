"""Raw requests in, checked answers out: the vocabulary of the contract tests."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx

from tests.support.chat import CHAT
from tests.support.system import DemoBackend

MESSAGES = [{"role": "user", "content": "Hello"}]
FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter", "function_call"}

Json = dict[str, Any]


def chat(
    client: httpx.Client, model: str = "demo", *, headers: dict[str, str] | None = None, **body: Any
) -> httpx.Response:
    """Post a completion request and return the whole answer."""
    return client.post(CHAT, json={"model": model, "messages": MESSAGES, **body}, headers=headers)


def envelope(answer: httpx.Response, status: int, **expected: str | None) -> Json:
    """Check that the answer is an error as OpenAI writes it, with this status and these members; return the error."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]
    body = answer.json()
    assert list(body) == ["error"]
    return check_error(body["error"], **expected)


def check_error(error: Json, **expected: str | None) -> Json:
    """Check the four keys and their types; return the error."""
    assert error.keys() == {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str) and error["message"]
    assert isinstance(error["type"], str) and error["type"]
    assert isinstance(error["param"], str | None)
    assert isinstance(error["code"], str | None)
    assert {name: error[name] for name in expected} == expected
    return error


def events(answer: httpx.Response) -> list[Json]:
    """Return the JSON of a stream's events, after a check of the framing; the last must be `[DONE]`."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("\n\n")
    assert "\r" not in answer.text
    blocks = [block for block in answer.text[:-2].split("\n\n") if not block.startswith(":")]
    for block in blocks:
        assert block.startswith("data: ") and "\n" not in block, block
    payloads = [block.removeprefix("data: ") for block in blocks]
    assert payloads[-1] == "[DONE]"
    assert payloads.count("[DONE]") == 1
    return [json.loads(payload) for payload in payloads[:-1]]


def stream(client: httpx.Client, model: str = "demo", **body: Any) -> list[Json]:
    """Post a streamed request and return its events."""
    return events(chat(client, model, stream=True, **body))


def text_of(chunks: list[Json]) -> str:
    """Return the content of choice 0 of a stream."""
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == 0]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def message_of(answer: httpx.Response) -> Json:
    """Return the first choice's message of a whole answer."""
    assert answer.status_code == 200, answer.text
    message: Json = answer.json()["choices"][0]["message"]
    return message


def asked_of(backend: DemoBackend, client: httpx.Client, model: str = "demo", **body: Any) -> Json:
    """Send a request with a prompt of its own and return the body that reached the backend."""
    nonce = uuid.uuid4().hex
    messages = [*body.pop("messages", []), {"role": "user", "content": nonce}]
    answer = chat(client, model, messages=messages, **body)
    assert answer.status_code == 200, answer.text
    (record,) = backend.seen(nonce)
    asked: Json = record["body"]
    return asked


@contextlib.contextmanager
def running(client: httpx.Client, model: str) -> Iterator[None]:
    """Keep one stream of the model running: it has begun when the block begins and is cut when the block ends."""
    body = {"model": model, "messages": MESSAGES, "stream": True}
    with client.stream("POST", CHAT, json=body) as answer:
        assert answer.status_code == 200, answer.read()
        parts = answer.iter_bytes()  # kept: a dropped iterator closes the answer
        next(parts)
        yield
