"""A parsed body becomes a `ChatRequest`, or one 400 that names the parameter; then what of it becomes a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from shared.errors import InvalidRequest
from shared.kinds.chat.beyond import with_known_words, within_limits
from shared.kinds.chat.schema import (
    CHAT_REQUEST,
    PARAMETERS,
    CreateChatCompletionRequest,
    schema_problem,
    without_branch_tags,
)
from shared.kinds.chat.structured import refuse_bad_schema
from shared.kinds.common.body import (
    read_stream_options,
    stream_options_for_job,
    without_extras,
    without_nulls,
)
from shared.kinds.common.members import without_unknown_members
from shared.kinds.common.parameters import text_for_job
from shared.kinds.common.refusals import first_error, invalid_type, missing
from shared.kinds.kind import Accepted
from shared.settings import ModelSettings

_WORKER_ADDS = frozenset({"model", "stream", "stream_options", "max_tokens", "max_completion_tokens"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A chat completion request that passed validation."""

    model: str
    """As the client named it."""
    stream: bool
    max_tokens: int | None
    """`max_completion_tokens` if given, else `max_tokens`."""
    max_tokens_field: str
    """Under which of the two names the client gave it."""
    n: int
    service_tier: str | None
    body: dict[str, Any]
    """As sent, without the known parameters that were null: those count as not given."""
    unknown_words: InvalidRequest | None = None
    """What a model says to roles, parts and formats that OpenAI's schema does not know, unless it passes them on."""
    past_limits: InvalidRequest | None = None
    """What a model says that keeps to all of OpenAI's limits."""


def validate(body: dict[str, Any]) -> ChatRequest:
    """Check a parsed body against the OpenAI schema and return what the gateway needs to know of it.

    What the model may judge otherwise is no reason to refuse yet; `accept` knows the model.

    Raises:
        InvalidRequest: 400, with the `param` and `code` that OpenAI uses.
    """
    unknown_words = past_limits = None
    fault = _fault(body)
    if fault is not None:
        known, limited = with_known_words(body), within_limits(body)
        if known is body and limited is body:
            raise fault
        if (other := _fault(within_limits(known))) is not None:
            raise other
        unknown_words = fault if limited is body else _fault(limited)
        past_limits = fault if known is body else _fault(known)
    body = without_nulls(body, PARAMETERS)
    read_stream_options(body)
    limit = body.get("max_completion_tokens")
    return ChatRequest(
        model=body["model"],
        stream=body.get("stream", False),
        max_tokens=body.get("max_tokens") if limit is None else limit,
        max_tokens_field="max_tokens" if limit is None else "max_completion_tokens",
        n=body.get("n", 1),
        service_tier=body.get("service_tier"),
        body=body,
        unknown_words=unknown_words,
        past_limits=past_limits,
    )


def accept(request: ChatRequest, model: ModelSettings) -> Accepted:
    """Return what becomes a job; raises InvalidRequest for parameters that the model refuses."""
    if request.past_limits is not None and model.parameter_limits == "openai":
        raise request.past_limits
    if request.unknown_words is not None and model.extra_parameters != "allow":
        raise request.unknown_words  # a whole message, part or format cannot be left out
    given = without_extras(request.body, PARAMETERS, model.extra_parameters)
    given = without_unknown_members(given, CreateChatCompletionRequest, model.extra_parameters)
    body, front = text_for_job(given, _WORKER_ADDS, model.changed_names)
    limit = request.max_tokens if (request.max_tokens or 0) > 0 else None
    return Accepted(
        body=body,
        cost=len(body) / 4 + (limit or model.default_max_tokens) * request.n,
        options={
            **front,
            **stream_options_for_job(given),
            "max_tokens": request.max_tokens,
            "max_tokens_field": request.max_tokens_field,
            **_structured(given, model),
        },
    )


def _structured(body: dict[str, Any], model: ModelSettings) -> dict[str, Any]:
    """Return the mark of a request whose answer the worker shall check; raises InvalidRequest for a bad schema."""
    response_format = body.get("response_format") or {"type": "text"}
    if model.structured_output == "passthrough" or response_format["type"] not in ("json_schema", "json_object"):
        return {}
    if (schema := (response_format.get("json_schema") or {}).get("schema")) is not None:
        refuse_bad_schema(schema)
    elif response_format["type"] == "json_schema":
        return {}
    return {"structured": True}


def _fault(body: dict[str, Any]) -> InvalidRequest | None:
    """Return what OpenAI would say against a body."""
    try:
        CHAT_REQUEST.validate_python(body, strict=True)
        _check_together(without_nulls(body, PARAMETERS))
    except ValidationError as error:
        return first_error(error, body, without_branch_tags)
    except InvalidRequest as error:
        return error
    return None


def _check_together(body: dict[str, Any]) -> None:
    """Check the rules that concern more than one parameter."""
    for index, message in enumerate(body["messages"]):
        if message["role"] == "assistant":
            _check_assistant(message, f"messages[{index}]")
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
