"""What the pinned openai-python makes of the bytes of a stream: the facts behind our framing, watched for change.

The product avoids each form that fails here. When an upgrade of the SDK changes a row, this page says so first.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.support.scripted_server import SSE_HEAD, Step, scripted_server


def _chunk(text: str, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


A, B = _chunk("a"), _chunk("b")
EMPTY = _chunk("", choices=[])
DONE = b"data: [DONE]\n\n"
ERROR = {"message": "broken", "type": "server_error", "param": None, "code": "own_code"}
ERROR_EVENT = b"data: " + json.dumps({"error": ERROR}).encode() + b"\n\n"
BARE_ERROR = json.dumps(ERROR).encode() + b"\n\n"


def _client(url: str, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="k", **{"max_retries": 0, "timeout": 10, **options})


def _ask(client: openai.OpenAI) -> Any:
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)


def _read(url: str) -> list[Any]:
    """Return what the plain iterator yields: a chunk's first text, `[]` for no choices, `None` for None."""
    with _client(url) as client, _ask(client) as chunks:
        return [chunk.choices[0].delta.content if chunk.choices else chunk.choices for chunk in chunks]


def _read_with_helper(url: str) -> list[Any]:
    """Return the texts that the `.stream()` helper yields."""
    with (
        _client(url) as client,
        client.chat.completions.stream(model="m", messages=[{"role": "user", "content": "x"}]) as events,
    ):
        return [event.delta for event in events if event.type == "content.delta"]


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        pytest.param([A, b": ping\n\n", B, DONE], ["a", "b"], id="comment with a blank line, no id"),
        pytest.param([b": ping\n\n", A, B, DONE], ["a", "b"], id="comment first"),
        pytest.param([b"id: 1\n", A, b": ping\n", B, DONE], ["a", "b"], id="id, then a comment glued to an event"),
        pytest.param([A, b"event: note\n", B, DONE], ["a", "b"], id="named event with a chunk"),
        pytest.param([A, b'event: note\ndata: {"x": 1}\n\n', B, DONE], ["a", None, "b"], id="named event, other JSON"),
        pytest.param([EMPTY, A, DONE], [[], "a"], id="no choices before the first"),
        pytest.param([_chunk("a", aqueduct={"position": 3}), B, DONE], ["a", "b"], id="unknown key"),
        pytest.param([A, b"event: error\ndata: " + BARE_ERROR, B, DONE], ["a", None, "b"], id="bare error not raised"),
        pytest.param([A, B], ["a", "b"], id="no [DONE] looks like success"),
        pytest.param([A, B.rstrip(b"\n")], ["a"], id="no blank line loses the last event"),
        pytest.param([(A + B + DONE).replace(b"\n", b"\r\n")], ["a", "b"], id="CRLF"),
        pytest.param([A + DONE + B], ["a"], id="nothing is read past [DONE]"),
    ],
)
def test_bytes_that_the_sdk_reads(sent: list[bytes], seen: list[Any]) -> None:
    with scripted_server([SSE_HEAD, *sent]) as server:
        assert _read(server.url) == seen


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param([b"id: 1\n", A, b": ping\n\n", B, DONE], id="id, later a comment with a blank line"),
        pytest.param([A, b"retry: 3000\n\n", B, DONE], id="retry alone"),
        pytest.param([A, b"event: ping\n\n", B, DONE], id="event without data"),
    ],
)
@pytest.mark.parametrize("read", [_read, _read_with_helper])
def test_bytes_that_break_the_sdk(read: Callable[[str], list[Any]], sent: list[bytes]) -> None:
    with scripted_server([SSE_HEAD, *sent]) as server, pytest.raises(json.JSONDecodeError):
        read(server.url)


@pytest.mark.parametrize("read", [_read, _read_with_helper])
@pytest.mark.parametrize("name", [b"", b"event: error\n"])
def test_error_event_raises_with_code_and_type_and_without_status(
    read: Callable[[str], list[Any]], name: bytes
) -> None:
    with scripted_server([SSE_HEAD, A, name + ERROR_EVENT, B, DONE]) as server:
        with pytest.raises(openai.APIError, match="broken") as raised:
            read(server.url)
        assert (raised.value.code, raised.value.type) == ("own_code", "server_error")
        assert not isinstance(raised.value, openai.APIStatusError)
        assert len(server.requests) == 1


def test_error_that_is_a_text_loses_it() -> None:
    with (
        scripted_server([SSE_HEAD, A, b'data: {"error": "broken"}\n\n', DONE]) as server,
        pytest.raises(openai.APIError) as raised,
    ):
        _read(server.url)
    assert "broken" not in raised.value.message


def test_stream_helper_skips_events_that_are_no_chunks() -> None:
    with scripted_server([SSE_HEAD, A, b'event: note\ndata: {"x": 1}\n\n', EMPTY, B, DONE]) as server:
        assert _read_with_helper(server.url) == ["a", "b"]


@pytest.mark.parametrize(("order", "breaks"), [((0, 1), False), ((1, 0), True)])
def test_stream_helper_needs_choice_0_first(order: tuple[int, int], breaks: bool) -> None:
    sent = []
    for index in order:
        choice = {"index": index, "delta": {"role": "assistant", "content": str(index)}, "finish_reason": None}
        sent.append(_chunk("", choices=[choice]))
    with scripted_server([SSE_HEAD, *sent, DONE]) as server:
        if breaks:
            with pytest.raises(IndexError):
                _read_with_helper(server.url)
        else:
            assert _read_with_helper(server.url) == ["0", "1"]


def test_comments_reset_the_read_timeout() -> None:
    silence: list[Step] = [0.3, b": ping\n\n"] * 4
    with scripted_server([SSE_HEAD, *silence, A, DONE]) as server:
        with _client(server.url, timeout=0.6, max_retries=2) as client, _ask(client) as chunks:
            assert [chunk.choices[0].delta.content for chunk in chunks] == ["a"]
        assert len(server.requests) == 1


def test_silent_server_gets_the_same_request_again() -> None:
    with scripted_server([5.0], [SSE_HEAD, A, DONE]) as server:
        with _client(server.url, timeout=0.3, max_retries=1) as client, _ask(client) as chunks:
            assert [chunk.choices[0].delta.content for chunk in chunks] == ["a"]
        heads = [request.lower() for request in server.requests]
        assert [b"x-stainless-retry-count: %d" % count in head for count, head in enumerate(heads)] == [True, True]
        assert b"x-stainless-read-timeout: 0.3" in heads[0]
        assert not any(b"idempotency-key" in head for head in heads)


def _whole(status: bytes, body: bytes, *headers: bytes) -> list[Step]:
    head = [b"HTTP/1.1 " + status, b"content-type: application/json", b"connection: close", *headers]
    return [b"\r\n".join(head) + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body]


COMPLETION = json.dumps(
    {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ok"}}]}
).encode()  # fmt: skip


def _create(url: str, **options: Any) -> Any:
    with _client(url, **options) as client:
        return client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])


def test_white_space_before_the_json_is_read_over() -> None:
    with scripted_server(_whole(b"200 OK", b" \n \n" + COMPLETION)) as server:
        assert _create(server.url).choices[0].message.content == "ok"


def test_error_with_status_200_raises_nothing() -> None:
    with scripted_server(_whole(b"200 OK", b'{"error":{"message":"broken"}}')) as server:
        assert _create(server.url).choices is None


@pytest.mark.parametrize(
    ("status", "headers", "requests"),
    [
        (b"408 Timeout", [], 2), (b"409 Conflict", [], 2), (b"429 Too Many", [], 2), (b"500 Error", [], 2),
        (b"503 Busy", [], 2), (b"400 Bad", [], 1), (b"413 Large", [], 1), (b"422 No", [], 1),
        (b"429 Too Many", [b"x-should-retry: false"], 1), (b"400 Bad", [b"x-should-retry: true"], 2),
        (b"429 Too Many", [b"retry-after: 300"], 1),
        (b"429 Too Many", [b"retry-after: 300", b"x-should-retry: true"], 1),
    ],
)  # fmt: skip
def test_statuses_that_the_sdk_retries(status: bytes, headers: list[bytes], requests: int) -> None:
    wait = [] if any(header.startswith(b"retry-after") for header in headers) else [b"retry-after-ms: 10"]
    refusal = _whole(status, ERROR_EVENT[6:], *headers, *wait)
    with scripted_server(refusal) as server:
        with pytest.raises(openai.APIStatusError):
            _create(server.url, max_retries=1)
        assert len(server.requests) == requests


def test_error_without_an_envelope_has_no_code() -> None:
    with scripted_server(_whole(b"404 Not Found", b'{"detail":"Not Found"}')) as server:
        with pytest.raises(openai.NotFoundError) as raised:
            _create(server.url)
        assert raised.value.code is None
