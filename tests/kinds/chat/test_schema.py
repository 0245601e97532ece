"""The schemas agree with the OpenAI SDK's types, describe themselves to OpenAPI, and judge response schemas."""

from __future__ import annotations

import json
from typing import Any, NotRequired, get_args, get_origin

import jsonschema_rs
import pytest
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionFunctionMessageParam,
    ChatCompletionMessage,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionToolParam,
    ChatCompletionUserMessageParam,
)
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from pydantic import BaseModel, ValidationError
from typing_extensions import get_type_hints, is_typeddict

from api.components import openapi_components
from api.schemas import ErrorResponse
from shared.errors import InvalidRequest
from shared.kinds import KINDS
from shared.kinds.chat.schema import CHAT_REQUEST, PARAMETERS, CreateChatCompletionRequest, schema_problem
from shared.kinds.completions.schema import CreateCompletionRequest


def accepts(body: dict[str, Any]) -> bool:
    try:
        CHAT_REQUEST.validate_python(body, strict=True)
    except ValidationError:
        return False
    return True


def test_parameters_are_those_of_the_openai_sdk() -> None:
    assert get_type_hints(CompletionCreateParamsStreaming).keys() == PARAMETERS


def typed_dicts(shape: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Collect every object of a schema, by name."""
    if is_typeddict(shape):
        if shape.__name__ not in found:
            found[shape.__name__] = shape
            for member in get_type_hints(shape).values():
                typed_dicts(member, found)
        return found
    for inner in get_args(shape):
        typed_dicts(inner, found)
    return found


OBJECTS = typed_dicts(CreateChatCompletionRequest, typed_dicts(CreateCompletionRequest, {}))


@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_every_optional_member_at_every_depth_may_be_null(name: str) -> None:
    shape = OBJECTS[name]
    spelt = get_type_hints(shape, include_extras=True)
    not_required: Any = NotRequired
    optional = {key for key, hint in spelt.items() if not shape.__total__ or get_origin(hint) is not_required}
    hints = get_type_hints(shape)
    assert [key for key in hints if key in optional and type(None) not in get_args(hints[key])] == []


def test_messages_built_with_the_sdks_types_are_accepted() -> None:
    messages = [
        ChatCompletionDeveloperMessageParam(role="developer", content="be brief"),
        ChatCompletionSystemMessageParam(role="system", content=[{"type": "text", "text": "be kind"}]),
        ChatCompletionUserMessageParam(
            role="user",
            content=[
                {"type": "text", "text": "what is this?"},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"file_data": "AAAA", "filename": "a.pdf"}},
            ],
        ),
        ChatCompletionAssistantMessageParam(
            role="assistant",
            tool_calls=[{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        ),
        ChatCompletionToolMessageParam(role="tool", content="42", tool_call_id="c"),
        ChatCompletionFunctionMessageParam(role="function", content=None, name="f"),
    ]
    tools = [ChatCompletionToolParam(type="function", function={"name": "f", "parameters": {}, "strict": None})]
    assert accepts({"model": "m", "messages": messages, "tools": tools})


@pytest.mark.parametrize("exclude_none", [True, False])
def test_an_answer_dumped_by_the_sdk_can_be_sent_back(exclude_none: bool) -> None:
    answer = ChatCompletionMessage(role="assistant", content="hi")
    assert accepts({"model": "m", "messages": [answer.model_dump(exclude_none=exclude_none)]})


def component_validator(name: str) -> jsonschema_rs.Draft202012Validator:
    document = json.loads(json.dumps(openapi_components()).replace("#/components/schemas/", "#/$defs/"))
    return jsonschema_rs.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": document})


def test_the_description_is_a_json_schema_with_every_reference_resolved() -> None:
    components = openapi_components()
    assert components.keys() >= {kind.description.request for kind in KINDS.values()}
    for name in ("CreateChatCompletionRequest", "ChatCompletion", "ChatCompletionChunk", "ErrorResponse", "ModelList"):
        component_validator(name)


USER = [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    "parameters",
    [
        {}, {"temperature": 2}, {"temperature": 2.1}, {"n": 0}, {"stop": []}, {"stop": "x"}, {"stop": ["a"] * 5},
        {"logit_bias": {"1": 5}}, {"logit_bias": {"x": 5}}, {"metadata": {"k": "v"}}, {"metadata": {"k": 1}},
        {"tool_choice": "auto"}, {"tool_choice": "x"}, {"tools": None}, {"user": None}, {"seed": None}, {"top_k": 1},
        {"messages": []}, {"messages": [{"role": "x"}]}, {"messages": [{"role": "user", "content": []}]},
        {"messages": [{"role": "system", "content": [{"type": "file", "file": {}}]}]}, {"model": None},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}}, {"verbosity": "x"},
        {"audio": {"voice": {"id": "v"}, "format": "wav"}}, {"modalities": []}, {"max_tokens": 0},
    ],
)  # fmt: skip
def test_the_description_accepts_exactly_what_validation_accepts(parameters: dict[str, Any]) -> None:
    body = {"model": "m", "messages": USER, **parameters}
    assert component_validator("CreateChatCompletionRequest").is_valid(body) == accepts(body)


def test_an_error_of_ours_fits_its_description() -> None:
    error = InvalidRequest("no", param="n", code="invalid_value")
    ErrorResponse.model_validate(error.body(), strict=True)
    assert component_validator("ErrorResponse").is_valid(error.body())
    assert not component_validator("ErrorResponse").is_valid({"error": {"message": "x", "type": "y"}})


def strict_object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


def nested(levels: int) -> dict[str, Any]:
    schema = strict_object({})
    for _ in range(levels - 1):
        schema = strict_object({"next": schema})
    return schema


class Tree(BaseModel):
    name: str
    children: list[Tree]


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (nested(10), None),
        (nested(11), "10 levels"),
        ({"type": "array", "items": {}}, "root"),
        ({"anyOf": [strict_object({})]}, "root"),
        (strict_object({"a": {"type": ["object", "null"]}}), "properties/a"),
        (strict_object({"a": {"type": "string"}}, required=[]), "'required'"),
        (strict_object({"a": {"anyOf": [{"type": "object"}]}}), "properties/a/anyOf/0"),
        (strict_object({"a": {"$ref": "#/$defs/x"}}, **{"$defs": {"x": {"type": "object"}}}), "$defs/x"),
        (strict_object({f"p{i}": {} for i in range(5_000)}), None),
        (strict_object({f"p{i}": {} for i in range(5_001)}), "5000 properties"),
        (strict_object({"a": {"enum": list(range(1_000))}}), None),
        (strict_object({"a": {"enum": list(range(1_001))}}), "1000 enum values"),
        (strict_object({"a": {"enum": [f"{i:061d}" for i in range(251)]}}), "15000"),
        (strict_object({"p" * 120_001: {}}), "120000"),
        (strict_object({"a": {"anyOf": [{"type": "null"}] * 60_000}}), "too large"),
    ],
)
def test_strict_schemas_keep_to_the_subset(schema: dict[str, Any], told: str | None) -> None:
    problem = schema_problem(schema, strict=True)
    assert (problem is None) if told is None else (problem is not None and told in problem)
    assert schema_problem(schema, strict=False) is None


def test_a_recursive_strict_schema_is_fine() -> None:
    schema = Tree.model_json_schema()
    schema["$defs"]["Tree"]["additionalProperties"] = False
    assert schema_problem(schema, strict=True) is None


def test_a_place_in_a_large_schema_is_told_briefly() -> None:
    problem = schema_problem({"properties": {"p" * 5_000: {"type": "x"}}}, strict=False)
    assert problem is not None
    assert len(problem) < 250


def test_a_schema_with_a_huge_integer_is_fine() -> None:
    assert schema_problem({"type": "integer", "maximum": 10**30}, strict=False) is None
