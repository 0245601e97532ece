"""A folded stream equals the plain answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.errors import BadBackendResponse
from shared.jobs import Usage
from shared.kinds.chat.fold import open_fold
from shared.kinds.common.fold import Folder
from tests.kinds.chat.chunks import chunk, event, stream, usage_chunk
from tests.support.rooms import a_spec


def _folder() -> Folder:
    return open_fold(a_spec(public_model="llama"), "j1")


def _fold(values: list[dict[str, Any]]) -> dict[str, Any]:
    folder = _folder()
    data = stream(values)
    for start in range(0, len(data), 100):
        folder.feed(data[start : start + 100])
    body: dict[str, Any] = json.loads(folder.result())
    return body


def test_text_is_joined() -> None:
    values = [chunk({"role": "assistant", "content": ""}), chunk({"content": "a\n"}), chunk({"content": "é"})]
    body = _fold([*values, chunk(finish="length", system_fingerprint="fp", service_tier="flex"), usage_chunk()])
    message = {"role": "assistant", "content": "a\né", "refusal": None}
    assert body == {
        "id": "chatcmpl-j1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "llama",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "system_fingerprint": "fp",
    }


def test_tool_calls_are_joined_by_index_and_content_is_null() -> None:
    def call(index: int, **rest: Any) -> dict[str, Any]:
        return chunk({"tool_calls": [{"index": index, **rest}]})

    values = [
        chunk({"role": "assistant", "content": ""}),
        call(0, id="a", type="function", function={"name": "f", "arguments": ""}),
        call(0, function={"arguments": '{"x":'}),
        call(1, id="b", type="function", function={"name": "g", "arguments": "{}"}),
        call(0, function={"arguments": "1}"}),
        chunk(finish="tool_calls"),
    ]
    message = _fold(values)["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_calls_of_one_index_are_not_joined() -> None:
    def call(**rest: Any) -> dict[str, Any]:
        return chunk({"tool_calls": [{"type": "function", **rest}]})

    first = call(index=0, id="call_1", function={"name": "f", "arguments": '{"p":1}'})
    second = call(index=0, id="call_2", function={"name": "f", "arguments": '{"p":2}'})
    for values in ([first, second], [call(id="call_1", function={"name": "f", "arguments": '{"p":1}'}), second]):
        calls = _fold([*values, chunk(finish="tool_calls")])["choices"][0]["message"]["tool_calls"]
        assert [(one["id"], one["function"]["arguments"]) for one in calls] == [
            ("call_1", '{"p":1}'),
            ("call_2", '{"p":2}'),
        ]


def test_reasoning_refusal_audio_and_function_call_are_joined() -> None:
    pieces: list[dict[str, Any]] = [
        {"role": "assistant", "reasoning_content": "th"},
        {"reasoning_content": "ink", "refusal": "n"},
        {"refusal": "o", "audio": {"id": "a", "data": "AA", "transcript": "x"}},
        {"audio": {"data": "BB", "transcript": "y"}, "function_call": {"name": "f", "arguments": "{"}},
        {"audio": {"expires_at": 9}, "function_call": {"arguments": "}"}},
    ]
    message = _fold([*map(chunk, pieces), chunk(finish="stop")])["choices"][0]["message"]
    assert message == {
        "role": "assistant",
        "content": None,
        "refusal": "no",
        "reasoning_content": "think",
        "audio": {"id": "a", "data": "AABB", "transcript": "xy", "expires_at": 9},
        "function_call": {"name": "f", "arguments": "{}"},
    }


def _thought(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}


def _said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


@pytest.mark.parametrize(
    ("contents", "whole"),
    [
        (["", [_thought("hm")], "H", "i", ""], [_thought("hm"), _said("Hi")]),
        (["H", "i", [_thought("hm")], "!"], [_said("Hi"), _thought("hm"), _said("!")]),
        ([[_said("H")], [_said("i")], None, "!"], [_said("Hi!")]),
        (["", "H", None, "i"], "Hi"),
        ([[], ""], []),
    ],
)
def test_content_in_parts_and_in_text_keeps_both(contents: list[Any], whole: object) -> None:
    body = _fold([*(chunk({"content": content}) for content in contents), chunk(finish="stop")])
    assert body["choices"][0]["message"]["content"] == whole


def test_logprobs_grow_and_choices_are_sorted() -> None:
    def piece(token: str, index: int) -> dict[str, Any]:
        one = chunk({"content": token}, index=index)
        one["choices"][0]["logprobs"] = {"content": [{"token": token, "logprob": -1.0}], "refusal": None}
        return one

    values = [piece("d", 2), piece("b", 1), piece("a", 0), piece("c", 1)]
    choices = _fold([*values, *(chunk(finish="stop", index=index) for index in range(3))])["choices"]
    assert [choice["message"]["content"] for choice in choices] == ["a", "bc", "d"]
    assert [one["token"] for one in choices[1]["logprobs"]["content"]] == ["b", "c"]
    assert choices[1]["logprobs"]["refusal"] is None


def test_what_is_mended_in_a_stream_is_mended_in_its_fold() -> None:
    values = [{**chunk({"content": "a"}, index=index), "created": "9"} for index in (None, "1")]  # type: ignore[arg-type]
    body = _fold([*values, chunk(finish="model_length", index=1)])
    assert body["created"] == 9
    assert [(one["index"], one["finish_reason"]) for one in body["choices"]] == [(0, "stop"), (1, "length")]


def test_a_cut_stream_has_no_result() -> None:
    folder = _folder()
    folder.feed(event(chunk({"content": "a"})))
    with pytest.raises(BadBackendResponse):
        folder.result()


def test_usage_is_told() -> None:
    folder = _folder()
    folder.feed(stream([chunk({"content": "a"}), chunk(finish="stop"), usage_chunk()]))
    assert (folder.usage, folder.done) == (Usage(3, 2, 5), True)


@pytest.mark.parametrize("calls", [5, "x", [5], [{"id": "a"}, None]])
def test_tool_calls_that_are_none_are_the_backends_fault(calls: object) -> None:
    with pytest.raises(BadBackendResponse, match="tool calls"):
        _folder().feed(event(chunk({"tool_calls": calls})))
