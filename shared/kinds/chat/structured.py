"""Structured output, kept: a plain answer beside its request's schema, and what to ask when it does not fit.

No message from here holds a word of the answer: a place and the schema's keyword are all that is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import jsonschema_rs

from shared.errors import InvalidRequest, SchemaBreach
from shared.kinds.chat.schema.effort import MOST, Effort
from shared.kinds.chat.schema.structured import MAX_CHECKED_BYTES, size_bytes
from shared.kinds.common.body import text_without

MOST_STEPS: Final = 12
"""Of a place in an answer; what lies deeper is told by its beginning."""
_PATTERNS: Final = jsonschema_rs.FancyRegexOptions(backtrack_limit=100_000)
"""A pattern of a client's must not hold a worker up: one that needs more steps does not match."""


class Checker:
    """The schema of one request."""

    def __init__(self, body: bytes) -> None:
        """Take the job's body: JSON object text with a `response_format` of `json_schema` or `json_object`."""
        request = json.loads(body)
        response_format = request["response_format"]
        schema = (response_format.get("json_schema") or {}).get("schema")
        self._validator = None if schema is None else _compiled(schema)
        self._names = frozenset(_property_names(schema))
        self._recurs = Effort(schema).recurs

    def check(self, answer: bytes) -> None:
        """Raise SchemaBreach where a choice of a chat completion does not fit.

        Refusals, tool calls, and answers that were cut off by their length or by a filter are not judged.
        """
        for choice in json.loads(answer)["choices"]:
            message = choice.get("message") or {}
            text = message.get("content")
            if choice.get("finish_reason") != "stop" or message.get("refusal") or message.get("tool_calls"):
                continue
            if isinstance(text, str):
                self._check_text(text, choice.get("index", 0))

    def _check_text(self, text: str, index: int) -> None:
        try:
            value = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise SchemaBreach.at(index, "$", "is no JSON", text) from None
        if self._validator is None:
            if not isinstance(value, dict):
                raise SchemaBreach.at(index, "$", "is no JSON object", text)
            return
        if _fits(self._validator, value):
            return
        # Of a schema that recurs errors may double with each level of the answer, and all are made before the first.
        error = None if self._recurs else next(self._validator.iter_errors(value), None)
        if error is None:
            raise SchemaBreach.at(index, "$", "breaks the schema", text)
        keyword = str(error.schema_path[-1]) if error.schema_path else "schema"
        raise SchemaBreach.at(index, self._place(error.instance_path), f"breaks `{keyword}` of the schema", text)

    def _place(self, path: list[str | int]) -> str:
        """Return a JSON path; a name that is not the schema's is the answer's own, and told as a star."""
        steps = []
        for step in path[:MOST_STEPS]:
            name = step if isinstance(step, int) or step in self._names else "*"
            steps.append(f"[{name}]" if isinstance(name, int) else f".{name}")
        return "$" + "".join(steps) + ("…" if len(path) > MOST_STEPS else "")


def refuse_bad_schema(schema: dict[str, Any]) -> None:
    """Raise InvalidRequest for a schema that no answer can be checked against, or not in any reasonable time."""
    if size_bytes(schema) > MAX_CHECKED_BYTES:
        message = f"The schema in 'response_format' is too large to be checked: at most {MAX_CHECKED_BYTES} bytes."
        raise InvalidRequest(message, param="response_format", code="invalid_value")
    if Effort(schema).most > MOST:
        message = "The schema in 'response_format' refers to itself in too many ways to be checked. Simplify it."
        raise InvalidRequest(message, param="response_format", code="invalid_value")
    _compiled(schema)


def asked_again(body: bytes, breach: SchemaBreach) -> bytes:
    """Return a job's body with the answer that does not fit, and a word on what is wrong with it.

    All else is written byte by byte as the API wrote it, which has counted up to where its front reaches.
    """
    request = json.loads(body)
    said = str(breach.said).encode(errors="replace").decode()  # half an emoji is no text to send
    again = f"Your answer does not fit the required JSON schema: {breach.where}. Answer again, with the JSON alone."
    request["messages"] = [
        *request["messages"],
        {"role": "assistant", "content": said},
        {"role": "user", "content": again},
    ]
    return b"{" + b",".join(text_without({name: value}, ())[1:-1] for name, value in request.items()) + b"}"


def _compiled(schema: dict[str, Any]) -> jsonschema_rs.Validator:
    try:
        return jsonschema_rs.validator_for(schema, retriever=_fetch_nothing, pattern_options=_PATTERNS)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError):
        message = "The schema in 'response_format' is no JSON schema, or refers to another document. Correct it."
        raise InvalidRequest(message, param="response_format", code="invalid_value") from None


def _fits(validator: jsonschema_rs.Validator, value: object) -> bool:
    try:
        return validator.is_valid(value)
    except ValueError:  # a number that no double holds
        return True


def _fetch_nothing(uri: str) -> NoReturn:
    raise ValueError("schemas are not fetched")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _property_names(schema: object) -> Iterator[str]:
    """Yield every name that a schema gives to a property."""
    rest = [schema]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            properties = one.get("properties")
            if isinstance(properties, dict):
                yield from properties
            rest += one.values()
        elif isinstance(one, list):
            rest += one
