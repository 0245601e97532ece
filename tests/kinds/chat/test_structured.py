"""Answers beside their schema: what fits passes, what does not is told by its place and never by its words."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from shared.errors import InvalidRequest, SchemaBreach
from shared.kinds.chat.structured import Checker, asked_again, refuse_bad_schema
from shared.kinds.common.parameters import text_for_job

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "marks": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name"],
    "additionalProperties": {"type": "integer"},
}
CANARY = "canary-word"


def body(schema: object = SCHEMA) -> bytes:
    response_format: dict[str, Any] = {"type": "json_object"}
    if schema is not None:
        response_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    return json.dumps({"messages": [{"role": "user", "content": "hi"}], "response_format": response_format}).encode()


def answer(*texts: str | None, **more: Any) -> bytes:
    choices = [
        {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": text}} | more
        for i, text in enumerate(texts)
    ]
    return json.dumps({"choices": choices}).encode()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (f'{{"marks": ["{CANARY}"], "name": "a"}}', "choice 0, $.marks[0] breaks `type` of the schema"),
        (f'{{"marks": [], "{CANARY}": 1}}', "choice 0, $ breaks `required` of the schema"),
        (f'{{"name": "a", "{CANARY}": "b"}}', "choice 0, $.* breaks `type` of the schema"),
        (f"{CANARY} {{}}", "choice 0, $ is no JSON"),
        ('{"name": NaN}', "choice 0, $ is no JSON"),
        ("[" * 100_000, "choice 0, $ is no JSON"),
    ],
)
def test_a_breach_is_told_by_its_place_without_a_word_of_the_answer(text: str, where: str) -> None:
    with pytest.raises(SchemaBreach) as caught:
        Checker(body()).check(answer(text))
    assert caught.value.where == where
    assert CANARY not in json.dumps(caught.value.body())
    assert (caught.value.status, caught.value.should_retry) == (500, False)


@pytest.mark.parametrize("text", ['{"name": "a"}', ' {"name": "a", "marks": [1, 2], "other": 3}\n'])
def test_what_fits_passes(text: str) -> None:
    Checker(body()).check(answer(text, text))


def test_every_choice_is_judged() -> None:
    with pytest.raises(SchemaBreach, match="choice 2"):
        Checker(body()).check(answer('{"name": "a"}', '{"name": "b"}', "{}"))


@pytest.mark.parametrize(
    "more",
    [
        {"finish_reason": "length"},
        {"finish_reason": "content_filter"},
        {"message": {"content": None, "refusal": "no"}},
        {"message": {"content": "x", "tool_calls": [{"id": "1"}]}},
        {"message": {"content": None}},
    ],
)
def test_what_is_no_answer_in_json_is_not_judged(more: dict[str, Any]) -> None:
    Checker(body()).check(answer("no json", **more))


def test_a_json_object_need_only_be_one() -> None:
    Checker(body(None)).check(answer('{"any": 1}'))
    with pytest.raises(SchemaBreach, match="is no JSON object"):
        Checker(body(None)).check(answer("[1]"))


@pytest.mark.parametrize(
    "schema",
    [{"type": "nonsense"}, {"$ref": "http://127.0.0.1:9/schema"}, {"$ref": "file:///etc/passwd"}, {"pattern": "("}],
)
def test_a_schema_that_is_none_or_lies_elsewhere_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        refuse_bad_schema(schema)
    assert caught.value.param == "response_format"


def test_a_pattern_that_explodes_does_not_hold_anything_up() -> None:
    checker = Checker(body({"type": "object", "properties": {"a": {"pattern": "^(?:(?:a+)+)+(?!b)$"}}}))
    with pytest.raises(SchemaBreach):
        checker.check(answer(json.dumps({"a": "a" * 40 + "!"})))


def _multiplying(keyword: str) -> dict[str, Any]:
    """Return a schema of 40 steps, each of which asks for the next one twice."""
    steps: dict[str, Any] = {f"s{n}": {keyword: [{"$ref": f"#/$defs/s{n + 1}"}] * 2} for n in range(40)}
    return {"$ref": "#/$defs/s0", "$defs": {**steps, "s40": {"type": "object"}}}


@pytest.mark.parametrize("keyword", ["allOf", "anyOf", "oneOf"])
def test_a_schema_that_multiplies_is_refused(keyword: str) -> None:
    with pytest.raises(InvalidRequest, match="too many ways"):
        refuse_bad_schema(_multiplying(keyword))
    nested: dict[str, Any] = {
        f"s{n}": {"properties": {"x": {keyword: [{"$ref": f"#/$defs/s{n + 1}"}] * 2}}} for n in range(40)
    }
    with pytest.raises(InvalidRequest, match="too many ways"):
        refuse_bad_schema({"$ref": "#/$defs/s0", "$defs": {**nested, "s40": {"type": "object"}}})


def test_a_schema_that_holds_up_whoever_compiles_it_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="too large"):
        refuse_bad_schema({"enum": ["x" * 300_000]})


def test_a_schema_that_recurs_holds_nothing_up() -> None:
    kinds = [
        {"type": "object", "properties": {"x": {"$ref": "#/$defs/n"}}, "required": [name]} for name in ("a", "b", "c")
    ]
    schema = {"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [*kinds, {"type": "integer"}]}}}
    refuse_bad_schema(schema)
    checker = Checker(body(schema))
    checker.check(answer('{"b":1,"x":' * 100 + "1" + "}" * 100))
    with pytest.raises(SchemaBreach) as caught:
        checker.check(answer('{"b":1,"x":' * 8 + '"no"' + "}" * 8))
    assert caught.value.where == "choice 0, $ breaks the schema"


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"enum": [1, 2]}}},
        {"properties": {f"p{n}": {"anyOf": [{"type": "string"}, {"type": "null"}]} for n in range(1000)}},
        {"$ref": "#"},
        {"$dynamicRef": "#x", "$dynamicAnchor": "x"},
    ],
)
def test_schemas_as_they_are_in_use_are_taken(schema: dict[str, Any]) -> None:
    refuse_bad_schema(schema)


def test_who_is_asked_again_is_told_what_was_wrong() -> None:
    with pytest.raises(SchemaBreach) as caught:
        Checker(body()).check(answer("{}"))
    again = json.loads(asked_again(body(), caught.value))
    assert [message["role"] for message in again["messages"]] == ["user", "assistant", "user"]
    assert again["messages"][1]["content"] == "{}"
    assert "$ breaks `required`" in again["messages"][2]["content"]
    assert again["response_format"] == json.loads(body())["response_format"]


def test_who_is_asked_again_has_the_same_front_for_the_operators_changes() -> None:
    given = {**json.loads(body()), "temperature": 1e-7, "user": "Zoë", "seed": 2**70}
    text, options = text_for_job(given, (), frozenset({"temperature", "user"}))
    end = options["front"][0]
    with pytest.raises(SchemaBreach) as caught:
        Checker(text).check(answer("{}"))
    again = asked_again(text, caught.value)
    assert again[: end + 1] == text[: end + 1]
    assert json.loads(again)["seed"] == 2**70


def test_who_has_said_half_an_emoji_is_asked_again_all_the_same() -> None:
    with pytest.raises(SchemaBreach) as caught:
        Checker(body()).check(answer('{"name": "\ud83d'))
    assert json.loads(asked_again(body(), caught.value))["messages"][1]["content"] == '{"name": "?'


def test_nothing_is_fetched_for_a_schema() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        with pytest.raises(InvalidRequest):
            refuse_bad_schema({"$ref": f"http://127.0.0.1:{listener.getsockname()[1]}/schema"})
        with pytest.raises(TimeoutError):
            listener.accept()
