"""The way in: raw bytes become a `ChatRequest`, or one 400 that names the parameter; then the body for the backend.

The client's own dictionary travels on, unchanged but for what the gateway decides itself: nothing is invented, order
and falsy values stay, long strings are never copied.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jiter
import orjson
from pydantic import ValidationError

from shared.errors import InvalidRequest
from shared.kinds.chat.schema import CHAT_REQUEST, PARAMETERS, schema_problem, without_branch_tags
from shared.kinds.common.refusals import first_error, invalid_type, missing

MAX_NAMED_EXTRAS = 10
MAX_EXTRA_NAME_CHARACTERS = 64

_JSON_FAULT = re.compile(r"\A(.*) at line (\d+) column (\d+)\Z", re.DOTALL)
_BACKEND_DECIDES = frozenset({"model", "stream", "stream_options", "max_tokens", "max_completion_tokens"})


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat completion request that passed validation."""

    model: str
    """As the client named it."""
    stream: bool
    include_usage: bool
    """Whether the client asked for the usage chunk (`stream_options.include_usage`)."""
    max_tokens: int | None
    """`max_completion_tokens` if given, else `max_tokens`."""
    max_tokens_field: str
    """Under which of the two names the client gave it."""
    n: int
    service_tier: str | None
    store: bool
    body: dict[str, Any]
    """As sent, without the known parameters that were null: those count as not given."""
    extras: tuple[str, ...] = ()
    """Top-level names that the OpenAI schema does not know."""
    stream_options_rest: dict[str, Any] = field(default_factory=dict)
    """The members of `stream_options` other than `include_usage`, for the backend."""


def parse_body(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`.

    Raises:
        InvalidRequest: `invalid_json`: not UTF-8, not JSON, not an object, NaN or a number beyond any float, a
            duplicate key, a lone surrogate, or nested deeper than 200. The message never shows the body's text.
    """
    if not raw:
        raise _invalid_json("The request body is empty. Send a JSON object.")
    try:
        body = jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise _invalid_json(_json_fault(str(error))) from None
    if not isinstance(body, dict):
        raise _invalid_json('The request body must be a JSON object, such as {"model": …, "messages": […]}.')
    if _holds_infinity(body):
        raise _invalid_json("The request body holds a number too large for JSON tools to read. Send a smaller one.")
    return body


def validate(body: dict[str, Any]) -> ChatRequest:
    """Check a parsed body against the OpenAI schema and return what the gateway needs to know of it.

    Raises:
        InvalidRequest: 400, with the `param` and `code` that OpenAI uses.
    """
    try:
        CHAT_REQUEST.validate_python(body, strict=True)
    except ValidationError as error:
        raise first_error(error, body, without_branch_tags) from None
    if None in body.values():
        body = {name: value for name, value in body.items() if value is not None or name not in PARAMETERS}
    _check_together(body)
    limit = body.get("max_completion_tokens")
    options = body.get("stream_options") or {}
    return ChatRequest(
        model=body["model"],
        stream=body.get("stream", False),
        include_usage=options.get("include_usage", False),
        max_tokens=body.get("max_tokens") if limit is None else limit,
        max_tokens_field="max_tokens" if limit is None else "max_completion_tokens",
        n=body.get("n", 1),
        service_tier=body.get("service_tier"),
        store=body.get("store", False),
        body=body,
        extras=() if body.keys() <= PARAMETERS else tuple(name for name in body if name not in PARAMETERS),
        stream_options_rest={name: value for name, value in options.items() if name != "include_usage"},
    )


def apply_extra_policy(request: ChatRequest, policy: Literal["allow", "drop", "refuse"]) -> ChatRequest:
    """Return the request as the model's policy on unknown parameters wants it.

    Raises:
        InvalidRequest: the policy is `refuse` and there are some; `param` and `code` are null, as with OpenAI.
    """
    if not request.extras or policy == "allow":
        return request
    if policy == "drop":
        body = {name: value for name, value in request.body.items() if name in PARAMETERS}
        return replace(request, body=body, extras=())
    names = [name[:MAX_EXTRA_NAME_CHARACTERS] for name in request.extras[:MAX_NAMED_EXTRAS]]
    if len(request.extras) > MAX_NAMED_EXTRAS:
        names.append("…")
    raise InvalidRequest(f"Unrecognized request argument(s) supplied: {', '.join(names)}")


def backend_body(request: ChatRequest) -> bytes:
    """Return the request as JSON text for a backend, without the members that the worker adds for each backend.

    Those are `model`, `stream`, `stream_options`, `max_tokens` and `max_completion_tokens`. The order stays.
    """
    body = {name: value for name, value in request.body.items() if name not in _BACKEND_DECIDES}
    try:
        return orjson.dumps(body)
    except TypeError:  # an integer beyond 64 bits, which JSON allows and orjson does not
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _invalid_json(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_json")


def _json_fault(text: str) -> str:
    match = _JSON_FAULT.match(text)
    if match is None:
        return "The request body is not valid JSON."
    reason, line, column = match.groups()
    if reason.startswith("Detected duplicate key"):  # the parser goes on to quote the key
        reason = "duplicate key"
    return f"The request body is not valid JSON: {reason} at line {line} column {column}."


def _holds_infinity(value: Any) -> bool:
    """Tell whether a number overflowed: the parser turns 1e400 into infinity, which no JSON can say again."""
    waiting = [value]
    while waiting:
        node = waiting.pop()
        kind = type(node)
        if kind is dict:
            waiting.extend(node.values())
        elif kind is list:
            waiting.extend(node)
        elif kind is float and math.isinf(node):
            return True
    return False


def _check_together(body: dict[str, Any]) -> None:
    """Check the rules that concern more than one parameter."""
    for index, message in enumerate(body["messages"]):
        if message["role"] == "assistant":
            _check_assistant(message, f"messages[{index}]")
    if "stream_options" in body and body.get("stream") is not True:
        raise _invalid("The 'stream_options' parameter is only allowed when 'stream' is true.", "stream_options")
    if "top_logprobs" in body and body.get("logprobs") is not True:
        raise _invalid("The 'top_logprobs' parameter is only allowed when 'logprobs' is true.", "top_logprobs")
    if "audio" in body.get("modalities", ()) and "audio" not in body:
        raise missing("audio")
    if body.get("tool_choice", "auto") not in ("none", "auto") and not body.get("tools"):
        raise _invalid("A 'tool_choice' that names or requires a tool is only allowed with 'tools'.", "tool_choice")
    response_format = body.get("response_format")
    if response_format is not None and response_format["type"] == "json_schema":
        _check_response_schema(response_format["json_schema"])


def _check_assistant(message: dict[str, Any], path: str) -> None:
    content = message.get("content")
    if content is None:
        if any(message.get(name) is not None for name in ("refusal", "audio", "function_call")):
            return
        if message.get("tool_calls"):
            return
        if "content" in message:
            raise invalid_type(f"{path}.content", "one of a string or array of objects", None)
        raise missing(f"{path}.content")
    if isinstance(content, list) and len(content) > 1 and any(part["type"] == "refusal" for part in content):
        raise _invalid("An assistant's content holds either text parts or exactly one refusal.", f"{path}.content")


def _check_response_schema(json_schema: dict[str, Any]) -> None:
    strict = json_schema.get("strict") is True
    schema = json_schema.get("schema")
    if schema is None:
        if strict:
            raise _invalid("Invalid 'response_format': with 'strict' a 'schema' is required.", "response_format")
        return
    problem = schema_problem(schema, strict=strict)
    if problem is not None:
        message = f"Invalid schema in 'response_format.json_schema.schema': {problem}."
        raise _invalid(message, "response_format")


def _invalid(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, param=param, code="invalid_value")
