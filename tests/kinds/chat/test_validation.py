"""A request body is either understood as sent, or refused with a 400 that names the parameter and shows no prompt."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from shared.errors import InvalidRequest
from shared.kinds.chat.accept import ChatRequest, accept, validate
from shared.kinds.chat.schema import PARAMETERS
from shared.kinds.common.body import parse_body
from tests.kinds.models import model_of

CANARY = "canary-7f3a"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]


def backend_body(request: ChatRequest, extra_parameters: str = "allow") -> bytes:
    return accept(request, model_of(extra_parameters=extra_parameters)).body


def body_with(**parameters: Any) -> dict[str, Any]:
    return {"model": "m", "messages": HELLO, **parameters}


def with_message(**message: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [message]}


def with_part(**part: Any) -> dict[str, Any]:
    return with_message(role="user", content=[part])


def refusal(body: dict[str, Any], **model: Any) -> InvalidRequest:
    """Return what a model says that refuses all that OpenAI's schema does not know, or one of these settings."""
    with pytest.raises(InvalidRequest) as caught:
        accept(validate(body), model_of(**(model or {"extra_parameters": "refuse"})))
    assert caught.value.status == 400
    assert caught.value.type == "invalid_request_error"
    return caught.value


def text_format(**json_schema: Any) -> dict[str, Any]:
    return body_with(response_format={"type": "json_schema", "json_schema": {"name": "answer", **json_schema}})


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}

VALID: list[tuple[str, Any]] = [
    ("audio", {"voice": "alloy", "format": "wav"}),
    ("audio", {"voice": {"id": "voice_1"}, "format": "pcm16"}),
    *[(name, value) for name in ("frequency_penalty", "presence_penalty") for value in (-2, 0, 1.5, 2)],
    ("function_call", "auto"),
    ("function_call", {"name": "f"}),
    ("functions", [{"name": "f"}] * 128),
    ("logit_bias", {"50256": -100, "1": 100}),
    ("logit_bias", {}),
    ("logprobs", False),
    ("max_completion_tokens", 1),
    ("max_tokens", 2**40),
    ("metadata", {f"k{i}": "v" * 512 for i in range(16)}),
    ("modalities", ["text"]),
    ("moderation", {"model": "omni", "policy": {"input": {"mode": "score"}, "output": None}}),
    ("n", 1),
    ("n", 128),
    ("parallel_tool_calls", False),
    ("prediction", {"type": "content", "content": "x"}),
    ("prediction", {"type": "content", "content": [{"type": "text", "text": "x"}]}),
    ("prompt_cache_key", ""),
    ("prompt_cache_options", {"mode": "explicit", "ttl": "30m"}),
    ("prompt_cache_retention", "24h"),
    *[("reasoning_effort", value) for value in ("none", "minimal", "low", "medium", "high", "xhigh", "max")],
    ("response_format", {"type": "text"}),
    ("response_format", {"type": "json_object"}),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "a-b_1"}}),
    ("safety_identifier", "s" * 128),
    ("seed", 0),
    ("seed", -(2**63)),
    ("seed", 2**63 - 1),
    *[("service_tier", value) for value in ("auto", "default", "flex", "scale", "priority", "fast")],
    ("stop", ""),
    ("stop", ["a", "b", "c", "d"]),
    ("store", True),
    ("stream", True),
    ("temperature", 0),
    ("temperature", 2.0),
    ("tools", [TOOL, {"type": "custom", "custom": {"name": "c", "format": {"type": "text"}}}]),
    ("tools", []),
    (
        "tools",
        [
            {
                "type": "custom",
                "custom": {
                    "name": "c",
                    "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}},
                },
            }
        ],
    ),
    ("tool_choice", "none"),
    ("top_p", 0),
    ("top_p", 1),
    ("user", ""),
    ("verbosity", "low"),
    (
        "web_search_options",
        {"search_context_size": "low", "user_location": {"type": "approximate", "approximate": {"city": "Bern"}}},
    ),
]


@pytest.mark.parametrize(("name", "value"), VALID)
def test_every_parameter_is_accepted_and_reaches_the_backend_as_sent(name: str, value: Any) -> None:
    request = validate(body_with(**{name: value}))
    assert request.body[name] == value
    if name not in ("stream", "max_tokens", "max_completion_tokens"):
        assert orjson.loads(backend_body(request))[name] == value


INVALID: list[tuple[str, Any, str, str]] = [
    ("model", 5, "model", "invalid_type"),
    ("model", None, "model", "invalid_type"),
    ("messages", [], "messages", "empty_array"),
    ("messages", "hi", "messages", "invalid_type"),
    ("messages", [3], "messages[0]", "invalid_type"),
    ("audio", {"voice": "alloy"}, "audio.format", "missing_required_parameter"),
    ("audio", {"voice": 1, "format": "wav"}, "audio.voice", "invalid_type"),
    ("audio", {"voice": "alloy", "format": "ogg"}, "audio.format", "invalid_value"),
    ("frequency_penalty", 2.1, "frequency_penalty", "decimal_above_max_value"),
    ("presence_penalty", -3, "presence_penalty", "decimal_below_min_value"),
    ("function_call", "never", "function_call", "invalid_value"),
    ("function_call", {}, "function_call.name", "missing_required_parameter"),
    ("functions", [], "functions", "empty_array"),
    ("functions", [{"name": "f"}] * 129, "functions", "array_above_max_length"),
    ("functions", [{}], "functions[0].name", "missing_required_parameter"),
    ("logit_bias", {"a": 1}, "logit_bias", "invalid_value"),
    ("logit_bias", {"1": 0.5}, "logit_bias", "invalid_type"),
    ("logit_bias", {"1": 101}, "logit_bias", "integer_above_max_value"),
    ("logprobs", "true", "logprobs", "invalid_type"),
    ("logprobs", 1, "logprobs", "invalid_type"),
    ("max_completion_tokens", 0, "max_completion_tokens", "integer_below_min_value"),
    ("max_tokens", 1.0, "max_tokens", "invalid_type"),
    ("max_tokens", True, "max_tokens", "invalid_type"),
    ("max_tokens", "5", "max_tokens", "invalid_type"),
    ("metadata", {f"k{i}": "" for i in range(17)}, "metadata", "object_above_max_properties"),
    ("metadata", {"k" * 65: ""}, "metadata", "string_above_max_length"),
    ("metadata", {"k": "v" * 513}, "metadata", "string_above_max_length"),
    ("metadata", {"k": 1}, "metadata", "invalid_type"),
    ("modalities", ["video"], "modalities[0]", "invalid_value"),
    ("modalities", ["text", "audio"], "audio", "missing_required_parameter"),
    ("moderation", {}, "moderation.model", "missing_required_parameter"),
    ("moderation", {"model": "m", "policy": {"input": {"mode": "x"}}}, "moderation.policy.input.mode", "invalid_value"),
    ("n", 0, "n", "integer_below_min_value"),
    ("n", 129, "n", "integer_above_max_value"),
    ("n", 10**400, "n", "integer_above_max_value"),
    ("parallel_tool_calls", 1, "parallel_tool_calls", "invalid_type"),
    ("prediction", {"type": "content", "content": 1}, "prediction.content", "invalid_type"),
    ("prediction", {"type": "content", "content": [{"type": "text"}]}, "prediction.content[0].text",
     "missing_required_parameter"),
    ("prompt_cache_key", 1, "prompt_cache_key", "invalid_type"),
    ("prompt_cache_options", {"ttl": "1h"}, "prompt_cache_options.ttl", "invalid_value"),
    ("prompt_cache_retention", "1h", "prompt_cache_retention", "invalid_value"),
    ("reasoning_effort", "huge", "reasoning_effort", "invalid_value"),
    ("reasoning_effort", 1, "reasoning_effort", "invalid_type"),
    ("response_format", {"type": "xml"}, "response_format.type", "invalid_value"),
    ("response_format", {}, "response_format.type", "missing_required_parameter"),
    ("response_format", {"type": "json_schema"}, "response_format.json_schema", "missing_required_parameter"),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "a b"}}, "response_format.json_schema.name",
     "invalid_value"),
    ("response_format", {"type": "json_schema", "json_schema": {"name": "a" * 65}}, "response_format.json_schema.name",
     "string_above_max_length"),
    ("safety_identifier", "s" * 129, "safety_identifier", "string_above_max_length"),
    ("seed", 2**63, "seed", "integer_above_max_value"),
    ("service_tier", "gold", "service_tier", "invalid_value"),
    ("stop", 5, "stop", "invalid_type"),
    ("stop", ["a"] * 5, "stop", "array_above_max_length"),
    ("stop", [], "stop", "empty_array"),
    ("stop", ["a", 1], "stop[1]", "invalid_type"),
    ("store", "yes", "store", "invalid_type"),
    ("stream", 1, "stream", "invalid_type"),
    ("stream_options", {"include_usage": True}, "stream_options", "invalid_value"),
    ("stream_options", {"include_usage": 1}, "stream_options.include_usage", "invalid_type"),
    ("temperature", 3, "temperature", "decimal_above_max_value"),
    ("temperature", -0.1, "temperature", "decimal_below_min_value"),
    ("temperature", "0.5", "temperature", "invalid_type"),
    ("temperature", True, "temperature", "invalid_type"),
    ("tool_choice", "some", "tool_choice", "invalid_value"),
    ("tool_choice", 1, "tool_choice", "invalid_type"),
    ("tool_choice", {"type": "function"}, "tool_choice.function", "missing_required_parameter"),
    ("tool_choice", {"type": 5}, "tool_choice.type", "invalid_type"),
    ("tool_choice", "required", "tool_choice", "invalid_value"),
    ("tools", {}, "tools", "invalid_type"),
    ("tools", [{"type": "function"}], "tools[0].function", "missing_required_parameter"),
    ("tools", [TOOL, {"type": "retrieval"}], "tools[1].type", "invalid_value"),
    ("tools", [{"type": "custom", "custom": {"name": "c", "format": {"type": "x"}}}], "tools[0].custom.format.type",
     "invalid_value"),
    ("top_logprobs", 3, "top_logprobs", "invalid_value"),
    ("top_logprobs", 21, "top_logprobs", "integer_above_max_value"),
    ("top_p", 1.01, "top_p", "decimal_above_max_value"),
    ("user", 1, "user", "invalid_type"),
    ("verbosity", "loud", "verbosity", "invalid_value"),
    ("web_search_options", {"search_context_size": "x"}, "web_search_options.search_context_size", "invalid_value"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "param", "code"), INVALID)
def test_every_parameter_is_refused_by_name_and_code(name: str, value: Any, param: str, code: str) -> None:
    error = refusal(body_with(**{name: value}))
    assert (error.param, error.code) == (param, code)
    assert param.split(".", maxsplit=1)[0].split("[", maxsplit=1)[0] in error.message or code == "invalid_value"
    assert len(error.message) < 400


def test_every_known_parameter_has_a_valid_and_an_invalid_example() -> None:
    needs_company = {"stream_options", "top_logprobs"}  # see test_logprobs_and_tools_make_their_companions_legal
    assert {name for name, _ in VALID} == PARAMETERS - {"model", "messages"} - needs_company
    assert {name for name, *_ in INVALID} == PARAMETERS


@pytest.mark.parametrize("name", sorted(PARAMETERS - {"model", "messages"}))
def test_null_counts_as_not_given(name: str) -> None:
    assert validate(body_with(**{name: None})) == validate(body_with())


NULLS_INSIDE: list[dict[str, Any]] = [
    body_with(tools=[{"type": "function", "function": {"name": "f", "description": None, "parameters": None}}]),
    body_with(tools=[{"type": "custom", "custom": {"name": "c", "description": None, "format": None}}]),
    body_with(functions=[{"name": "f", "description": None, "parameters": None}]),
    text_format(description=None, schema=None, strict=None),
    body_with(prompt_cache_options={"mode": None, "ttl": None}),
    body_with(web_search_options={"search_context_size": None, "user_location": None}),
    body_with(moderation={"model": "m", "policy": None}),
    with_message(role="user", content="x", name=None),
    with_part(type="text", text="x", prompt_cache_breakpoint=None),
    with_part(type="image_url", image_url={"url": "u", "detail": None}),
    with_part(type="file", file={"file_id": "f", "file_data": None, "filename": None}),
]


@pytest.mark.parametrize("body", NULLS_INSIDE)
def test_null_inside_a_parameter_counts_as_not_given_and_travels_on(body: dict[str, Any]) -> None:
    sent = orjson.loads(backend_body(validate(body)))
    assert sent == {name: value for name, value in body.items() if name != "model"}


def test_null_of_an_unknown_parameter_travels_on() -> None:
    assert validate(body_with(top_k=None)).body["top_k"] is None


MESSAGES: list[dict[str, Any]] = [
    {"role": "developer", "content": "x", "name": "n"},
    {"role": "system", "content": [{"type": "text", "text": ""}]},
    {"role": "user", "content": ""},
    {"role": "user", "content": [{"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,", "detail": "original"}}]},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "mp3"}}]},
    {"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}, "cache_control": {"type": "ephemeral"}}]},
    {"role": "assistant", "content": "x", "reasoning_content": "thought"},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    {"role": "assistant", "content": None, "refusal": "no"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "n", "input": ""}}]},
    {"role": "assistant", "content": "x", "tool_calls": None, "audio": None, "function_call": None},
    {"role": "assistant", "audio": {"id": "a"}},
    {"role": "assistant", "function_call": {"name": "f", "arguments": ""}},
    {"role": "tool", "content": "x", "tool_call_id": "c1"},
    {"role": "tool", "content": [{"type": "text", "text": "x"}], "tool_call_id": "c1"},
    {"role": "function", "content": None, "name": "f"},
]


@pytest.mark.parametrize("message", MESSAGES)
def test_every_role_and_part_passes_through_untouched(message: dict[str, Any]) -> None:
    sent = {"model": "m", "messages": [message]}
    assert orjson.loads(backend_body(validate(sent))) == {"messages": [message]}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (with_message(content="x"), "messages[0].role", "missing_required_parameter"),
        (with_message(role="bot", content="x"), "messages[0].role", "invalid_value"),
        (with_message(role=["user"], content="x"), "messages[0].role", "invalid_type"),
        (with_message(role="user"), "messages[0].content", "missing_required_parameter"),
        (with_message(role="user", content=None), "messages[0].content", "invalid_type"),
        (with_message(role="user", content=[]), "messages[0].content", "empty_array"),
        (with_message(role="user", content=["x"]), "messages[0].content[0]", "invalid_type"),
        (with_message(role="system", content=[{"type": "image_url"}]), "messages[0].content[0].type", "invalid_value"),
        (with_message(role="tool", content="x"), "messages[0].tool_call_id", "missing_required_parameter"),
        (with_message(role="function", name="f"), "messages[0].content", "missing_required_parameter"),
        (with_message(role="assistant"), "messages[0].content", "missing_required_parameter"),
        (with_message(role="assistant", content=None), "messages[0].content", "invalid_type"),
        (with_message(role="assistant", content=None, tool_calls=[]), "messages[0].content", "invalid_type"),
        (with_message(role="assistant", content=[{"type": "refusal", "refusal": "a"}, {"type": "text", "text": "b"}]),
         "messages[0].content", "invalid_value"),
        (with_message(role="assistant", tool_calls=[{"id": "c", "type": "function", "function": {"name": "f"}}]),
         "messages[0].tool_calls[0].function.arguments", "missing_required_parameter"),
        (with_message(role="assistant", tool_calls=[{"id": "c", "type": "web"}]), "messages[0].tool_calls[0].type",
         "invalid_value"),
        (with_part(text="x"), "messages[0].content[0].type", "missing_required_parameter"),
        (with_part(type="video"), "messages[0].content[0].type", "invalid_value"),
        (with_part(type="text", text=1), "messages[0].content[0].text", "invalid_type"),
        (with_part(type="image_url", image_url={}), "messages[0].content[0].image_url.url",
         "missing_required_parameter"),
        (with_part(type="image_url", image_url="u"), "messages[0].content[0].image_url", "invalid_type"),
        (with_part(type="input_audio", input_audio={"data": "", "format": "ogg"}),
         "messages[0].content[0].input_audio.format", "invalid_value"),
        (with_part(type="file", file={"file_id": 1}), "messages[0].content[0].file.file_id", "invalid_type"),
    ],
)  # fmt: skip
def test_a_faulty_message_is_named_by_its_path(body: dict[str, Any], param: str, code: str) -> None:
    error = refusal(body)
    assert (error.param, error.code) == (param, code)


def test_messages_of_errors_read_like_openais() -> None:
    assert refusal({}).message == "Missing required parameter: 'model'."
    assert refusal(body_with(n=129)).message == (
        "Invalid 'n': integer above maximum value. Expected a value <= 128, but got 129 instead."
    )
    assert refusal(with_message(role="user", content=5)).message == (
        "Invalid type for 'messages[0].content': expected one of a string or array of objects, "
        "but got an integer instead."
    )
    assert refusal(body_with(verbosity="loud")).message == (
        "Invalid value: 'loud'. Supported values are: 'low', 'medium' or 'high'."
    )


def test_the_first_fault_in_the_order_of_the_body_is_told() -> None:
    assert refusal({"model": "m", "top_p": 5, "n": 0, "messages": HELLO}).param == "top_p"
    assert refusal({"n": 0, "top_p": 5, "model": "m", "messages": HELLO}).param == "n"
    two = [{"role": "user", "content": 1}, {"role": "x"}]
    assert refusal({"messages": two, "model": 1}).param == "messages[0].content"


def test_what_the_gateway_reads_is_taken_from_the_body() -> None:
    request = validate(
        body_with(
            stream=True, stream_options={"include_usage": True, "include_obfuscation": False}, max_tokens=5,
            max_completion_tokens=7, n=2, service_tier="flex", store=True, top_k=4,
        )
    )  # fmt: skip
    assert request.model == "m"
    assert (request.stream, request.max_tokens, request.n) == (True, 7, 2)
    assert request.service_tier == "flex"
    options = accept(request, model_of()).options
    assert (options["include_usage"], options["stream_options"]) == (True, {"include_obfuscation": False})


def test_logprobs_and_tools_make_their_companions_legal() -> None:
    validate(body_with(logprobs=True, top_logprobs=0))
    validate(body_with(stream=True, stream_options={}))
    validate(body_with(modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"}))
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [TOOL]}}
    for choice in ("required", {"type": "function", "function": {"name": "look"}}, allowed):
        validate(body_with(tools=[TOOL], tool_choice=choice))


def test_falsy_values_and_order_reach_the_backend_byte_for_byte() -> None:
    raw = (
        b'{"temperature":0,"seed":0,"store":false,"user":"","zeta":{"b":1,"a":2},"messages":[{"content":"","role":'
        b'"user"}],"stop":"","top_p":0.0}'
    )
    assert backend_body(validate(parse_body(raw[:-1] + b',"model":"m","stream":false,"max_tokens":1}'))) == raw


def test_integers_beyond_64_bits_reach_the_backend_exactly() -> None:
    huge = 123456789012345678901234567890
    request = validate(parse_body(json.dumps(body_with(extra={"x": huge, "ä": "ü"})).encode()))
    assert json.loads(backend_body(request))["extra"] == {"x": huge, "ä": "ü"}


def test_extra_parameters_are_allowed_dropped_or_refused() -> None:
    request = validate({"top_k": 4, "model": "m", "min_p": 0, "messages": HELLO})
    assert orjson.loads(backend_body(request, "allow")) == {"top_k": 4, "min_p": 0, "messages": HELLO}
    assert orjson.loads(backend_body(request, "drop")) == {"messages": HELLO}
    with pytest.raises(InvalidRequest) as caught:
        backend_body(request, "refuse")
    assert caught.value.message == "Unrecognized request argument(s) supplied: top_k, min_p"
    assert (caught.value.param, caught.value.code) == (None, None)
    assert orjson.loads(backend_body(validate(body_with()), "refuse")) == {"messages": HELLO}


@pytest.mark.parametrize("options", [{"x": "a" * 1024}, {"a" * 1024: 1}, {"x": [0] * 600}])
def test_stream_options_too_large_for_a_jobs_record_are_refused(options: dict[str, Any]) -> None:
    error = refusal(body_with(stream=True, stream_options={"include_usage": True, **options}))
    assert (error.status, error.param, error.code) == (400, "stream_options", "invalid_value")
    assert "1024 bytes" in error.message
    assert len(error.message) < 200


def test_null_stream_options_are_not_given() -> None:
    request = validate(body_with(stream=True, stream_options={"include_usage": None, "include_obfuscation": None}))
    options = accept(request, model_of()).options
    assert (options["include_usage"], options["stream_options"]) == (False, {})


def test_unknown_stream_options_travel_to_the_worker() -> None:
    request = validate(body_with(stream=True, stream_options={"include_usage": False, "x": "a" * 900}))
    assert accept(request, model_of()).options["stream_options"] == {"x": "a" * 900}


def test_the_cost_is_what_is_asked_and_what_may_be_answered() -> None:
    accepted = accept(validate(body_with(max_tokens=10, n=3)), model_of())
    assert accepted.cost == len(accepted.body) / 4 + 30
    accepted = accept(validate(body_with()), model_of(default_max_tokens=50))
    assert accepted.cost == len(accepted.body) / 4 + 50


@pytest.mark.parametrize(
    "body",
    [
        with_message(role=CANARY * 10, content=CANARY),
        with_message(role="user", content={"text": CANARY}),
        with_message(role="user", content=[CANARY]),
        with_part(type="text", text=[CANARY]),
        with_part(type="text", text={CANARY: CANARY}),
        with_part(type=CANARY * 10),
        body_with(metadata={CANARY: 5}),
        body_with(metadata={"k": CANARY * 100}),
        body_with(logit_bias={CANARY: 5}),
        body_with(user=[CANARY]),
        body_with(stop=[{"a": CANARY}]),
        body_with(verbosity=CANARY * 10),
        body_with(tools=[{"type": "function", "function": {"name": "f", "parameters": CANARY}}]),
    ],
)
def test_no_error_shows_the_prompt(body: dict[str, Any]) -> None:
    error = refusal(body)
    assert CANARY not in error.json().decode()


def test_a_long_list_of_wrong_items_costs_one_error() -> None:
    error = refusal({"model": "m", "messages": [1] * 1_000_000})
    assert error.param == "messages[0]"


GOOD = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


def test_response_schemas_that_are_json_schemas_pass_untouched() -> None:
    loose = {"properties": {"z": {}, "a": {"$ref": "http://127.0.0.1:9/never-fetched"}}}
    for body in (text_format(schema=loose), text_format(schema=GOOD, strict=True), text_format(strict=None)):
        assert validate(body).body["response_format"] is body["response_format"]


@pytest.mark.parametrize(
    ("json_schema", "told"),
    [
        ({"schema": {"type": "objekt"}}, "'type'"),
        ({"schema": {"properties": {"a": {"required": "x"}}}}, "'properties/a/required'"),
        ({"strict": True}, "'schema' is required"),
        ({"strict": True, "schema": {**GOOD, "additionalProperties": True}}, "additionalProperties"),
    ],
)
def test_bad_response_schemas_are_refused_before_generation(json_schema: dict[str, Any], told: str) -> None:
    error = refusal(text_format(**json_schema))
    assert (error.param, error.code) == ("response_format", "invalid_value")
    assert told in error.message
