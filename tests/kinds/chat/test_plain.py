"""Whole answers keep their values but for id and model."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from shared.errors import AqueductError, BadBackendResponse
from shared.jobs import Usage
from shared.kinds.chat.plain import rewrite
from tests.support.rooms import a_spec

SPEC = a_spec(public_model="llama")
BODY: dict[str, Any] = {
    "id": "cmpl-1",
    "object": "chat.completion",
    "created": 5,
    "model": "meta/Llama",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}


def _rewrite(body: object, **dump: Any) -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body, **dump).encode()
    rewritten: dict[str, Any] = json.loads(rewrite(raw, SPEC, "j1")[0])
    return rewritten


@pytest.mark.parametrize("content", ["hi", '"id":"cmpl-1"', '{"id": "cmpl-1", "model": "meta/Llama"}', "\u2028é😀"])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("indent", [None, 2])
def test_only_id_and_model_change(content: str, order: int, indent: int | None) -> None:
    message = {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"id": "cmpl-1", "model": "meta/Llama", "type": "function"}],
        "x": 1,
    }
    body = {**BODY, "choices": [{**BODY["choices"][0], "message": message}], "extra": {"id": "e"}}
    body = dict(list(body.items())[::order])
    assert _rewrite(body, indent=indent) == {**body, "id": "chatcmpl-j1", "model": "llama"}


@pytest.mark.parametrize("odd", ["123456789012345678901234567890", "1e-06", "-0.0", '"\\u0041\\/"', '"\\ud83d"', '"é"'])
def test_values_stay_whatever_their_spelling(odd: str) -> None:
    raw = json.dumps({**BODY, "x": "@"}).encode().replace(b'"@"', odd.encode())
    rewritten, usage = rewrite(raw, SPEC, "j1")
    assert repr(json.loads(rewritten)["x"]) == repr(json.loads(odd))
    assert usage == Usage(1, 2, 3)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("beside", ["x", "\ud83d", 10**30])
def test_a_number_that_is_no_json_becomes_null(number: float, beside: object) -> None:
    body = _rewrite({**BODY, "x": number, "y": [{"z": number}], "beside": beside})
    assert (body["x"], body["y"], body["beside"]) == (None, [{"z": None}], beside)


def test_a_broken_byte_costs_a_character_and_not_the_answer() -> None:
    body = _rewrite(b"\xef\xbb\xbf" + json.dumps(BODY).encode().replace(b"hi", b"h\xff"))
    assert body["choices"][0]["message"]["content"] == "h\ufffd"


@pytest.mark.parametrize("end", [b"[DONE]", b"\n\ndata: [DONE]\n\n", b"data:[DONE]\r\n"])
def test_an_end_of_stream_behind_the_body_is_cut_off(end: bytes) -> None:
    assert _rewrite(json.dumps(BODY).encode() + end) == _rewrite(BODY)


def test_missing_members_are_filled_in() -> None:
    body = _rewrite({"choices": BODY["choices"]})
    assert (body["id"], body["object"], body["model"]) == ("chatcmpl-j1", "chat.completion", "llama")


def test_finish_reasons_are_mapped() -> None:
    body = {**BODY, "choices": [{**BODY["choices"][0], "finish_reason": "eos"}]}
    assert _rewrite(body)["choices"][0]["finish_reason"] == "stop"
    with pytest.raises(BadBackendResponse, match="aborted"):
        _rewrite({**BODY, "choices": [{"finish_reason": "abort"}]})


@pytest.mark.parametrize("reason", [None, "", "whatever", 5])
def test_text_without_a_known_finish_reason_has_stopped(reason: object) -> None:
    body = {**BODY, "choices": [{**BODY["choices"][0], "finish_reason": reason}]}
    assert _rewrite(body)["choices"][0]["finish_reason"] == "stop"
    body["choices"][0]["message"] = {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}
    assert _rewrite(body)["choices"][0]["finish_reason"] == "tool_calls"
    body["choices"][0]["message"] = {"role": "assistant", "content": ""}
    with pytest.raises(BadBackendResponse, match="without a finish reason"):
        _rewrite(body)


def test_calls_are_as_strict_clients_read_them() -> None:
    given = [{"function": {"name": "f", "arguments": {"x": 1}}}, {"id": "", "custom": {"name": "g", "input": "i"}}]
    message: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": given}
    first, second = _rewrite({**BODY, "choices": [{"message": message}]})["choices"][0]["message"]["tool_calls"]
    assert (first["type"], first["function"]["arguments"], second["type"]) == ("function", '{"x":1}', "custom")
    assert len({first["id"], second["id"]}) == 2
    message["tool_calls"] = given[0]
    assert len(_rewrite({**BODY, "choices": [{"message": message}]})["choices"][0]["message"]["tool_calls"]) == 1
    message["tool_calls"] = [5]
    with pytest.raises(BadBackendResponse, match="tool calls"):
        _rewrite({**BODY, "choices": [{"message": message}]})


@pytest.mark.parametrize(("end", "told"), [("tool_calls", "{}"), ("stop", "{}"), ("length", "")])
@pytest.mark.parametrize("given", [{}, {"arguments": ""}, {"arguments": None}])
def test_a_call_has_arguments_unless_it_may_be_cut(given: dict[str, Any], end: str, told: str) -> None:
    message = {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", **given}}]}
    body = _rewrite({**BODY, "choices": [{"message": message, "finish_reason": end}]})
    assert body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == told


@pytest.mark.parametrize("given", [{}, {"role": None}, {"role": ""}])
def test_a_message_says_who_speaks(given: dict[str, Any]) -> None:
    body = _rewrite({**BODY, "choices": [{"message": {**given, "content": "x"}, "finish_reason": "stop"}]})
    assert body["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.parametrize("given", [{"total_tokens": 30}, {"total_tokens": 30.0, "prompt_tokens": None}])
def test_usage_has_its_three_counts(given: dict[str, Any]) -> None:
    body = _rewrite({**BODY, "usage": {**given, "total_characters": 0}})
    assert body["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 30, "total_characters": 0}
    assert repr(body["usage"]["total_tokens"]) == "30"


def test_usage_that_stands_elsewhere_is_told_where_it_belongs() -> None:
    usage = BODY["usage"]
    for body in (
        {**BODY, "usage": None, "choices": [{**BODY["choices"][0], "usage": usage}]},
        {**BODY, "usage": None, "x_groq": {"usage": usage}},
    ):
        raw, told = rewrite(json.dumps(body).encode(), SPEC, "j1")
        assert (json.loads(raw)["usage"], told) == (usage, Usage(1, 2, 3))


@pytest.mark.parametrize(
    ("created", "told"),
    [
        (1746709563.49, 1746709563), ("1746709563", 1746709563), ("2025-05-08T13:06:03Z", SPEC.created),
        (None, SPEC.created), (True, SPEC.created), (-1, SPEC.created), (1e300, SPEC.created),
        ("9" * 5000, SPEC.created), (10**400, SPEC.created),
    ],
)  # fmt: skip
def test_created_is_a_whole_number(created: object, told: int) -> None:
    body = _rewrite({**BODY, "created": created})
    assert (body["created"], type(body["created"])) == (told, int)


def test_choices_have_whole_indexes() -> None:
    (choice,) = BODY["choices"]
    bare = {key: choice[key] for key in choice if key != "index"}
    body = _rewrite({**BODY, "choices": [bare, {**choice, "index": "1"}]})
    assert [one["index"] for one in body["choices"]] == [0, 1]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{}", b'{"choices":[]}', b'{"choices":[1]}', b"data: {}", b'"\xff"']
)
def test_nonsense_is_refused(body: bytes) -> None:
    with pytest.raises(BadBackendResponse):
        _rewrite(body)


def test_an_error_with_status_200_is_raised() -> None:
    with pytest.raises(AqueductError, match="boom") as caught:
        _rewrite({"error": {"message": "boom", "code": 400}})
    assert caught.value.status == 400


@pytest.mark.parametrize("theirs", ["flex", "default", None])
def test_the_tier_is_ours_where_one_was_asked_for_and_nobodys_otherwise(theirs: str | None) -> None:
    raw = json.dumps({**BODY, "service_tier": theirs}).encode()
    named = json.loads(rewrite(raw, a_spec(tier="priority"), "j1")[0])
    assert named["service_tier"] == "priority"
    assert "service_tier" not in json.loads(rewrite(raw, a_spec(), "j1")[0])
