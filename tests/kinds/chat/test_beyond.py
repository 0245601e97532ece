"""What OpenAI's schema refuses and other servers take: the model's settings say whether it is passed on."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import orjson
import pytest

from shared.errors import InvalidRequest
from shared.kinds import KINDS
from shared.kinds.chat.accept import accept, validate
from shared.kinds.chat.schema import messages, tools
from tests.kinds.models import model_of

HELLO: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
CALL = {"id": "c", "type": "function"}


def a_body(**parameters: Any) -> dict[str, Any]:
    return {"model": "m", "messages": HELLO, **parameters}


def a_message(**message: Any) -> dict[str, Any]:
    return a_body(messages=[*HELLO, message])


def a_part(**part: Any) -> dict[str, Any]:
    return a_message(role="user", content=[{"type": "text", "text": "x"}, part])


def sent(body: dict[str, Any], **model: Any) -> dict[str, Any]:
    """Return what a model of these settings passes on."""
    given: dict[str, Any] = orjson.loads(accept(validate(body), model_of(**model)).body)
    return given


def refusal(body: dict[str, Any], **model: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        accept(validate(body), model_of(**model))
    return caught.value


WORDS: list[tuple[dict[str, Any], str]] = [
    (a_part(type="video_url", video_url={"url": "data:,"}), "messages[1].content[1].type"),
    (a_part(type="audio_url", audio_url={"url": "data:,"}), "messages[1].content[1].type"),
    (a_message(role="tool", tool_call_id="c", content=[{"type": "resource"}]), "messages[1].content[0].type"),
    (a_message(role="assistant", content=[{"type": "thinking", "thinking": "…"}]), "messages[1].content[0].type"),
    *[
        (a_part(type="input_audio", input_audio={"data": "", "format": word}),
         "messages[1].content[1].input_audio.format")
        for word in ("flac", "ogg", "m4a")
    ],
    (a_message(role="control", content="thinking"), "messages[1].role"),
    (a_body(response_format={"type": "structural_tag", "structures": []}), "response_format.type"),
    (a_body(response_format={"type": "json", "value": {}}), "response_format.type"),
    (a_body(response_format={"type": "json_schema", "schema": {}}), "response_format.json_schema"),
    (a_body(audio={"voice": "v", "format": "ogg"}), "audio.format"),
    (a_body(tools=[{"type": "custom-server-tool"}]), "tools[0].type"),
    (a_body(tools=[{"type": "custom", "custom": {"name": "c", "format": {"type": "ebnf"}}}]),
     "tools[0].custom.format.type"),
    (a_body(tools=[{"type": "web_search"}], tool_choice={"type": "web_search"}), "tools[0].type"),
    (a_body(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice={"type": "mcp", "name": "x"}),
     "tool_choice.type"),
    (a_message(role="assistant", tool_calls=[{"id": "c", "type": "mcp", "mcp": {}}]), "messages[1].tool_calls[0].type"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param"), WORDS)
def test_words_that_the_schema_does_not_know_are_passed_on_or_refused_by_their_path(
    body: dict[str, Any], param: str
) -> None:
    untouched = {name: value for name, value in body.items() if name != "model"}
    assert sent(body) == untouched
    assert sent(body, parameter_limits="backend") == untouched
    for policy in ("drop", "refuse"):
        assert refusal(body, extra_parameters=policy).param == param
        assert refusal(body, extra_parameters=policy, parameter_limits="backend").param == param


LIMITS: list[tuple[dict[str, Any], str]] = [
    (a_body(stop=["a"] * 5), "stop"),
    (a_body(stop=[]), "stop"),
    (a_body(functions=[]), "functions"),
    (a_body(modalities=[]), "modalities"),
    (a_body(messages=[]), "messages"),
    (a_body(max_tokens=0), "max_tokens"),
    (a_body(max_completion_tokens=-1), "max_completion_tokens"),
    (a_body(top_logprobs=3), "top_logprobs"),
    (a_body(top_logprobs=3, logprobs=False), "top_logprobs"),
    (a_message(role="user", content=[]), "messages[1].content"),
    (a_message(role="tool", tool_call_id="c", content=[IMAGE]), "messages[1].content[0].type"),
    (a_message(role="system", content=[IMAGE]), "messages[1].content[0].type"),
    (a_message(role="assistant", content=None), "messages[1].content"),
    (a_message(role="assistant"), "messages[1].content"),
    (a_message(role="assistant", tool_calls=[{**CALL, "function": {"name": "f"}}]),
     "messages[1].tool_calls[0].function.arguments"),
    (a_message(role="assistant", tool_calls=[{**CALL, "function": {"name": "f", "arguments": None}}]),
     "messages[1].tool_calls[0].function.arguments"),
    (a_message(role="assistant", function_call={"name": "f"}), "messages[1].function_call.arguments"),
    (a_message(role="function", name=None, content="x"), "messages[1].name"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param"), LIMITS)
def test_limits_that_servers_do_not_share_are_openais_or_the_backends(body: dict[str, Any], param: str) -> None:
    assert refusal(body).param == param
    worker_adds = {"model", "max_tokens", "max_completion_tokens"}
    untouched = {name: value for name, value in body.items() if name not in worker_adds}
    for policy in ("allow", "drop", "refuse"):
        assert sent(body, parameter_limits="backend", extra_parameters=policy) == untouched


def test_a_limit_of_tokens_below_one_reaches_the_backend_and_costs_what_an_answer_may() -> None:
    accepted = accept(validate(a_body(max_tokens=-1)), model_of(parameter_limits="backend", default_max_tokens=50))
    assert accepted.options["max_tokens"] == -1
    assert accepted.cost == len(accepted.body) / 4 + 50


def test_what_is_wrong_beside_an_unknown_word_or_a_limit_is_told_of_every_model() -> None:
    body = {**a_message(role="control"), "stop": [], "temperature": 9}
    for policy in ("allow", "refuse"):
        for limits in ("openai", "backend"):
            error = refusal(body, extra_parameters=policy, parameter_limits=limits)
            assert (error.param, error.code) == ("temperature", "decimal_above_max_value")


def test_a_word_and_a_limit_are_judged_each_by_its_own_setting() -> None:
    body = {**a_message(role="control"), "stop": []}
    assert refusal(body).param == "stop"
    assert refusal(body, parameter_limits="backend", extra_parameters="refuse").param == "messages[1].role"
    assert "stop" in sent(body, parameter_limits="backend")


INSIDE: list[tuple[dict[str, Any], str]] = [
    (a_message(role="assistant", content="x", reasoning_content="y"), "messages[1].reasoning_content"),
    (a_part(type="text", text="x", cache_control={"type": "ephemeral"}), "messages[1].content[1].cache_control"),
    (a_part(type="image_url", image_url={"url": "u", "max_pixels": 9}), "messages[1].content[1].image_url.max_pixels"),
    (a_body(tools=[{"type": "function", "function": {"name": "f", "kind": "x"}}]), "tools[0].function.kind"),
    (a_body(tools=[{"type": "custom", "custom": {"name": "f"}, "x": 1}]), "tools[0].x"),
    (a_body(response_format={"type": "json_schema", "json_schema": {"name": "n", "x": 1}}),
     "response_format.json_schema.x"),
    (a_body(web_search_options={"x": 1}), "web_search_options.x"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param"), INSIDE)
def test_unknown_members_inside_are_passed_on_left_out_or_refused_by_their_path(
    body: dict[str, Any], param: str
) -> None:
    untouched = {name: value for name, value in body.items() if name != "model"}
    assert sent(body) == untouched
    error = refusal(body, extra_parameters="refuse")
    assert (error.param, error.code, error.message) == (param, "unknown_parameter", f"Unknown parameter: '{param}'.")
    dropped = sent(body, extra_parameters="drop")
    assert dropped != untouched
    assert f'"{param.rpartition(".")[2]}":' not in orjson.dumps(dropped).decode()
    assert sent({"model": "m", **dropped}, extra_parameters="refuse") == dropped


def test_names_that_are_the_clients_own_are_no_unknown_members() -> None:
    schema = {"type": "object", "properties": {"x": {"y": 1}}}
    body = a_body(
        metadata={"k": "v"},
        logit_bias={"1": 1},
        tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}],
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        tool_choice={"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"any": "thing"}]}},
    )
    untouched = {name: value for name, value in body.items() if name != "model"}
    for policy in ("drop", "refuse"):
        assert sent(body, extra_parameters=policy) == untouched


def test_unknown_stream_options_follow_the_model() -> None:
    body = a_body(stream=True, stream_options={"include_usage": True, "x": 1})
    for name, given in (("chat.completions", body), ("completions", {**body, "prompt": "p"})):
        kind = KINDS[name]
        request = kind.validate(given)
        assert kind.accept(request, model_of()).options["stream_options"] == {"x": 1}
        assert kind.accept(request, model_of(extra_parameters="drop")).options["stream_options"] == {}
    assert refusal(body, extra_parameters="refuse").param == "stream_options.x"


def test_a_long_name_of_an_unknown_member_is_told_briefly() -> None:
    error = refusal(a_message(role="user", content="x", **{"n" * 5_000: 1}), extra_parameters="refuse")
    assert len(error.message) < 200


def words_of(union: Any, member: str) -> set[str]:
    """Return what tells the objects of a union apart."""
    return {word for one in get_args(get_args(union)[0]) for word in get_args(get_type_hints(one)[member])}


def test_every_word_of_the_schema_is_known() -> None:
    for role in words_of(messages.Message, "role"):
        assert refusal(a_message(role=role, content=5)).param == "messages[1].content"
    for word in words_of(messages.UserPart, "type"):
        assert (refusal(a_part(type=word)).param or "").startswith("messages[1].content[1].")
    for word in words_of(messages.AssistantPart, "type"):
        assert refusal(a_message(role="assistant", content=[{"type": word}])).code == "missing_required_parameter"
    for word in words_of(tools.Tool, "type"):
        assert (refusal(a_body(tools=[{"type": word}])).param or "").startswith("tools[0].")
    for word in words_of(tools.ToolChoiceObject, "type"):
        choice = a_body(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice={"type": word})
        assert (refusal(choice).param or "").startswith("tool_choice.")
    for word in words_of(messages.ToolCall, "type"):
        call = a_message(role="assistant", tool_calls=[{"id": "c", "type": word}])
        assert (refusal(call).param or "").startswith("messages[1].tool_calls[0].")
    for word in words_of(tools.ResponseFormat, "type") - {"json_schema"}:
        assert sent(a_body(response_format={"type": word, "x": 1}, tools=[]))
        assert sent(a_body(response_format={"type": word}), extra_parameters="refuse")
    for word in get_args(get_type_hints(messages.InputAudio)["format"]):
        audio = {"type": "input_audio", "input_audio": {"data": "", "format": word}}
        assert sent(a_part(**audio), extra_parameters="refuse")
        assert refusal({**a_part(**audio), "n": 0}, extra_parameters="refuse").param == "n"


@pytest.mark.parametrize("messages", [None, "", 0, {}, [None]])
def test_what_the_gateway_must_understand_is_no_limit(messages: Any) -> None:
    error = refusal(a_body(messages=messages), parameter_limits="backend")
    assert (error.code, (error.param or "")[:8]) == ("invalid_type", "messages")
