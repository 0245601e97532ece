"""The event stream: framing, constant ids, usage on demand, keep-alives, errors after the first byte."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import HOLD_SECONDS
from tests.e2e.wire import FINISH_REASONS, MESSAGES, Json, chat, check_error, events, running, stream, text_of
from tests.support.chat import CHAT
from tests.support.system import System

USAGE = {"include_usage": True}


def test_stream_has_the_headers_that_proxies_and_clients_need(client: httpx.Client) -> None:
    answer = chat(client, "short", stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-request-id"].startswith("req_")
    assert int(answer.headers["openai-processing-ms"]) >= 0
    assert int(answer.headers["x-aqueduct-queue-ms"]) >= 0
    assert "content-length" not in answer.headers


def test_plain_answer_tells_its_times(client: httpx.Client) -> None:
    answer = chat(client, "slow")
    queued, ran = (int(answer.headers[f"x-aqueduct-{what}-ms"]) for what in ("queue", "run"))
    assert ran >= 1500 > queued
    assert int(answer.headers["openai-processing-ms"]) >= ran


@pytest.mark.parametrize(
    "model",
    ["demo", "short", "tools", "reasoning", "refusal", "created-varies", "spaces", "crlf", "split", "batched",
     "commented", "drop-finish-null", "no-done", "wrong-content-type", "usage-with-choice", "usage-null", "no-usage"],
)  # fmt: skip
def test_every_chunk_has_the_same_identity_and_a_legal_shape(client: httpx.Client, model: str) -> None:
    answer = chat(client, model, stream=True, n=2)
    chunks = events(answer)
    job = answer.headers["x-request-id"].removeprefix("req_")
    assert {chunk["id"] for chunk in chunks} == {f"chatcmpl-{job}"}
    assert {chunk["model"] for chunk in chunks} == {model}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    (created,) = {chunk["created"] for chunk in chunks}
    assert abs(created - time.time()) < 60
    assert not any("usage" in chunk for chunk in chunks)
    _check_choices(chunks, count=2)


def _check_choices(chunks: list[Json], *, count: int) -> None:
    """Each choice begins with its role and ends with one finish reason inside the enumeration; choice 0 is first."""
    assert chunks[0]["choices"][0]["index"] == 0
    for index in range(count):
        mine = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert mine[0]["delta"]["role"] == "assistant"
        reasons = [choice.get("finish_reason") for choice in mine]
        assert reasons[-1] in FINISH_REASONS
        assert set(reasons[:-1]) == {None}
        assert mine[-1]["delta"] == {}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("finish-length", "length"), ("finish-content_filter", "content_filter"), ("finish-eos", "stop"),
        ("finish-end_turn", "stop"), ("finish-max_tokens", "length"), ("finish-tool_call", "tool_calls"),
        ("finish-odd", "stop"), ("tools", "tool_calls"), ("demo", "stop"),
    ],
)  # fmt: skip
def test_finish_reasons_stay_inside_the_enumeration(client: httpx.Client, model: str, reason: str) -> None:
    assert chat(client, model).json()["choices"][0]["finish_reason"] == reason
    assert stream(client, model)[-1]["choices"][0]["finish_reason"] == reason


# --- usage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["short", "usage-with-choice", "usage-null", "tools", "spaces", "no-done"])
def test_usage_asked_for_comes_once_and_last_with_no_choice(client: httpx.Client, model: str) -> None:
    *earlier, last = stream(client, model, stream_options=USAGE)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"] > 0
    assert all(chunk["choices"] for chunk in earlier)
    assert all(chunk.get("usage") is None for chunk in earlier)


def test_chunks_before_an_asked_for_usage_carry_null(client: httpx.Client) -> None:
    *earlier, _ = stream(client, "usage-null", stream_options=USAGE)
    assert all(chunk["usage"] is None for chunk in earlier)


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_obfuscation": False}])
@pytest.mark.parametrize("model", ["short", "usage-with-choice", "usage-null"])
def test_usage_not_asked_for_does_not_come(client: httpx.Client, model: str, options: Json | None) -> None:
    chunks = stream(client, model, stream_options=options)
    assert all(chunk["choices"] and "usage" not in chunk for chunk in chunks)


def test_backend_without_usage_gets_none_invented(client: httpx.Client) -> None:
    assert all(chunk["choices"] for chunk in stream(client, "no-usage", stream_options=USAGE))
    assert "usage" not in chat(client, "no-usage").json()


# --- keep-alives --------------------------------------------------------------------------------------------------


def _timed(client: httpx.Client, body: Json, headers: dict[str, str] | None = None) -> tuple[float, list[str]]:
    """Return when the headers of a stream came, in seconds, and its blocks."""
    began = time.monotonic()
    with client.stream("POST", CHAT, json={"messages": MESSAGES, "stream": True, **body}, headers=headers) as answer:
        headers_after = time.monotonic() - began
        assert answer.status_code == 200
        return headers_after, answer.read().decode().split("\n\n")


def test_headers_are_held_for_the_first_event_then_comments_keep_the_stream_alive(client: httpx.Client) -> None:
    headers_after, blocks = _timed(client, {"model": "first-token-late"})
    assert HOLD_SECONDS * 0.95 <= headers_after < 2.6
    assert blocks[0].startswith(":")
    comments = [block for block in blocks if block.startswith(":")]
    assert len(comments) >= 2
    assert not any(line.startswith(("id:", "retry:", "event:")) for block in blocks for line in block.split("\n"))
    assert blocks[-2:] == ["data: [DONE]", ""]


def test_headers_come_with_the_first_event_when_that_is_earlier(client: httpx.Client) -> None:
    _, blocks = _timed(client, {"model": "short"})
    assert not any(block.startswith(":") for block in blocks)


def test_clients_own_read_timeout_shortens_the_hold(client: httpx.Client) -> None:
    headers_after, blocks = _timed(client, {"model": "slow"}, {"x-stainless-read-timeout": "1"})
    assert headers_after < 1
    assert sum(block.startswith(":") for block in blocks) >= 3


def test_queued_stream_tells_where_it_stands_in_a_comment(gateway: System, client: httpx.Client) -> None:
    body = {"model": "one-slot", "messages": MESSAGES, "stream": True}
    soon = {"x-stainless-read-timeout": "1"}
    with (
        running(client, "one-slot"),
        gateway.client() as second,
        second.stream("POST", CHAT, json=body, headers=soon) as waiting,
        gateway.client() as third,
        third.stream("POST", CHAT, json=body, headers=soon) as answer,
    ):
        first_lines = next(waiting.iter_lines()), next(answer.iter_lines())
    places = [re.fullmatch(r": queued, position (\d+), wait \d+ ms", line) for line in first_lines]
    assert [place and place[1] for place in places] == ["0", "1"]


@pytest.mark.parametrize("timeout", ["", "x", "-1", "0", "1e-9", "0.9", "nan", "inf", "1e99"])
def test_odd_read_timeouts_are_ignored(client: httpx.Client, timeout: str) -> None:
    assert chat(client, stream=True, headers={"x-stainless-read-timeout": timeout}).status_code == 200


# --- what goes wrong after the first byte -------------------------------------------------------------------------


def _failed(client: httpx.Client, model: str, **body: Any) -> tuple[list[Json], Json]:
    """Return the chunks before the error event, and the error."""
    *chunks, last = events(chat(client, model, stream=True, **body))
    assert list(last) == ["error"]
    assert chunks and all("error" not in chunk for chunk in chunks)
    return chunks, check_error(last["error"])


@pytest.mark.parametrize(
    ("model", "kind", "code", "text"),
    [
        ("error-after-openai", "server_error", "own_code", "0 1 2 "),
        ("error-after-llamacpp", "server_error", "backend_error", "0 1 2 "),
        ("error-after-vllm_old", "server_error", "backend_error", "0 1 2 "),
        ("cut-mid-stream", "service_unavailable_error", "backend_unavailable", "0 1 2 "),
        ("eof-mid-stream", "server_error", "bad_backend_response", "0 1 2 "),
        ("stall-mid-stream", "timeout_error", "backend_timeout", "0 1 2 "),
        ("garbage", "server_error", "bad_backend_response", "0 1 "),
        ("finish-abort", "server_error", "bad_backend_response", "0 1 "),
    ],
)
def test_failure_after_the_first_byte_is_one_error_event(
    client: httpx.Client, model: str, kind: str, code: str, text: str
) -> None:
    chunks, error = _failed(client, model)
    assert (error["type"], error["code"]) == (kind, code)
    assert text_of(chunks) == text
    if model.startswith("error-after"):
        assert error["message"] == "own words"


@pytest.mark.parametrize("model", ["status-400", "status-429", "stall", "unserved", "error-in-200"])
def test_failure_before_the_first_event_has_no_stream(client: httpx.Client, model: str) -> None:
    answer = chat(client, model, stream=True)
    assert answer.status_code >= 400
    assert answer.headers["content-type"] == "application/json"


def test_failure_past_the_hold_comes_as_an_event_with_the_same_error(client: httpx.Client) -> None:
    answer = chat(client, "stall", stream=True, headers={"x-stainless-read-timeout": "1"})
    assert answer.status_code == 200
    assert answer.text.startswith(":")
    (event,) = events(answer)
    assert check_error(event["error"])["code"] == "backend_timeout"


# --- what passes through ------------------------------------------------------------------------------------------


def test_a_broken_byte_costs_a_character_and_not_the_answer(client: httpx.Client) -> None:
    whole = chat(client, "invalid-utf8").json()["choices"][0]["message"]["content"]
    assert text_of(stream(client, "invalid-utf8")) == whole
    assert "\ufffd" in whole
    assert whole.split()[-1].isdigit()


def test_parallel_tool_calls_keep_their_index_and_name_themselves_first(client: httpx.Client) -> None:
    seen: dict[int, list[Json]] = {}
    for chunk in stream(client, "tools"):
        delta = chunk["choices"][0]["delta"]
        assert delta.get("content") is None
        for call in delta.get("tool_calls", []):
            seen.setdefault(call["index"], []).append(call)
    assert sorted(seen) == [0, 1]
    for index, (first, *rest) in seen.items():
        assert first["id"] == f"call_demo_{index}"
        assert first["type"] == "function"
        assert first["function"]["name"]
        assert all("id" not in call for call in rest)
        assert json.loads("".join(call["function"]["arguments"] for call in [first, *rest])) == {}


def test_plain_tool_calls_have_null_content(client: httpx.Client) -> None:
    message = chat(client, "tools").json()["choices"][0]["message"]
    assert message["content"] is None
    assert [call["id"] for call in message["tool_calls"]] == ["call_demo_0", "call_demo_1"]


def test_reasoning_content_passes_through(client: httpx.Client) -> None:
    whole = chat(client, "reasoning").json()["choices"][0]["message"]["reasoning_content"]
    deltas = [chunk["choices"][0]["delta"] for chunk in stream(client, "reasoning")]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == whole
    assert whole


def test_refusal_comes_in_its_own_field(client: httpx.Client) -> None:
    message = chat(client, "refusal").json()["choices"][0]["message"]
    assert message["content"] is None
    deltas = [chunk["choices"][0]["delta"] for chunk in stream(client, "refusal")]
    assert "".join(delta.get("refusal") or "" for delta in deltas) == message["refusal"]


@pytest.mark.parametrize("model", ["short", "crlf", "split", "batched", "commented", "spaces", "no-done"])
def test_stream_and_plain_answer_say_the_same_however_the_backend_writes(client: httpx.Client, model: str) -> None:
    plain = chat(client, model, logprobs=True, top_logprobs=2).json()["choices"][0]
    chunks = stream(client, model, logprobs=True, top_logprobs=2)
    logprobs = [choice["logprobs"] for chunk in chunks for choice in chunk["choices"] if choice.get("logprobs")]
    assert text_of(chunks) == plain["message"]["content"]
    assert [token for part in logprobs for token in part["content"]] == plain["logprobs"]["content"]


def test_text_of_every_script_passes_untouched(client: httpx.Client) -> None:
    text = '日本語 🏳️‍🌈 \u2028 \u0000 "id":"x" \\ data: [DONE]\r\n\r\n: x {"model":"demo"}'
    messages = [{"role": "user", "content": text}]
    assert chat(client, "echo", messages=messages).json()["choices"][0]["message"]["content"].startswith(text)
    assert text_of(stream(client, "echo", messages=messages)).startswith(text)
