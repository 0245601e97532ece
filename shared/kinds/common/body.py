"""Bodies of requests: raw bytes in, the JSON object they hold, or one 400; later its text for a job.

The client's own dictionary travels on, unchanged but for what the gateway decides itself: nothing is invented, order
and falsy values stay, long strings are never copied.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jiter
import orjson

from shared.errors import InvalidRequest
from shared.infinity import holds_infinity
from shared.kinds.common.fields import StreamOptions

MAX_NAMED_EXTRAS = 10
MAX_EXTRA_NAME_CHARACTERS = 64
MAX_STREAM_OPTIONS_BYTES = 1024
"""They travel in the job's record, which limits do not count and every script reads."""

_JSON_FAULT = re.compile(r"\A(.*) at line (\d+) column (\d+)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRequest:
    """A request that passed validation, of a kind that need know no more of it than every kind does."""

    model: str
    stream: bool = False
    service_tier: str | None
    body: dict[str, Any]
    """As sent, without the known parameters that were null: those count as not given."""
    past_limits: InvalidRequest | None = None
    """What a model says that keeps to all of OpenAI's limits."""


def parse_body(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in `raw`.

    Raises:
        InvalidRequest: `invalid_json`: not UTF-8, not JSON, not an object, NaN or a number beyond any float, a
            duplicate key, a lone surrogate, or nested deeper than 200. The message never shows the body's text.
    """
    raw = raw.removeprefix(codecs.BOM_UTF8)  # some clients' writers put it there; without one nothing is copied
    if not raw:
        raise _invalid_json("The request body is empty. Send a JSON object.")
    try:
        body = jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise _invalid_json(_json_fault(str(error))) from None
    if not isinstance(body, dict):
        raise _invalid_json('The request body must be a JSON object, such as {"model": …, "messages": […]}.')
    if holds_infinity(body):
        raise _invalid_json("The request body holds a number too large for JSON tools to read. Send a smaller one.")
    return body


def without_nulls(body: dict[str, Any], parameters: frozenset[str]) -> dict[str, Any]:
    """Return the body without the known parameters that are null: those count as not given."""
    if None not in body.values():
        return body
    return {name: value for name, value in body.items() if value is not None or name not in parameters}


def without_extras(
    body: dict[str, Any], parameters: frozenset[str], policy: Literal["allow", "drop", "refuse"]
) -> dict[str, Any]:
    """Return the body as the model's policy on parameters that the schema does not know wants it.

    Raises:
        InvalidRequest: the policy is `refuse` and there are some; `param` and `code` are null, as with OpenAI.
    """
    if policy == "allow" or body.keys() <= parameters:
        return body
    if policy == "drop":
        return {name: value for name, value in body.items() if name in parameters}
    extras = [name for name in body if name not in parameters]
    names = [name[:MAX_EXTRA_NAME_CHARACTERS] for name in extras[:MAX_NAMED_EXTRAS]]
    if len(extras) > MAX_NAMED_EXTRAS:
        names.append("…")
    raise InvalidRequest(f"Unrecognized request argument(s) supplied: {', '.join(names)}")


def text_without(body: Mapping[str, Any], names: Collection[str]) -> bytes:
    """Return the body as JSON text without these members. The order stays."""
    left = {name: value for name, value in body.items() if name not in names}
    try:
        return orjson.dumps(left)
    except TypeError:  # an integer beyond 64 bits, which JSON allows and orjson does not
        return json.dumps(left, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def stream_options_for_job(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the worker must know of `stream` and `stream_options`: a `stream` that the client left out is not
    the same as `false` to every server.
    """
    include_usage, rest = read_stream_options(body)
    told = {"stream": False} if body.get("stream") is False else {}
    return {"include_usage": include_usage, "stream_options": rest, **told}


def read_stream_options(body: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Return whether the client asked for the usage chunk, and the members of `stream_options` for the backend.

    Raises:
        InvalidRequest: the request is not for a stream, or they are more than the job's record can carry.
    """
    options = body.get("stream_options")
    if options is None:
        return False, {}
    if body.get("stream") is not True:
        raise _invalid_options("The 'stream_options' parameter is only allowed when 'stream' is true.")
    rest = {
        name: value
        for name, value in options.items()
        if name != "include_usage" and (value is not None or name not in StreamOptions.__annotations__)
    }
    try:
        size = len(orjson.dumps(rest))
    except TypeError:
        raise _invalid_options("Invalid 'stream_options': send integers of at most 64 bits.") from None
    if size > MAX_STREAM_OPTIONS_BYTES:
        raise _invalid_options(
            f"Invalid 'stream_options': too large. Send at most {MAX_STREAM_OPTIONS_BYTES} bytes, got {size}."
        )
    return options.get("include_usage") is True, rest


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


def _invalid_options(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="stream_options", code="invalid_value")
