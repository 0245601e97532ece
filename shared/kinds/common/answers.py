"""The vocabulary of backends' answers: bytes in, JSON values, usage and public finish reasons out. No I/O."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

from shared.errors import BadBackendResponse
from shared.jobs import Usage

PUBLIC_FINISH_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
"""The only values that OpenAI's contract allows."""

MAX_TOKENS = 1_000_000_000
"""Of one answer: what a backend counts beyond it is no count, and would spoil sums and shares."""

_FINISH_REASONS = {
    **{reason: reason for reason in PUBLIC_FINISH_REASONS},
    **dict.fromkeys(("eos", "eos_token", "stop_sequence", "end_turn", "complete"), "stop"),
    **dict.fromkeys(("max_tokens", "max_length"), "length"),
    **dict.fromkeys(("tool_call", "tool_use"), "tool_calls"),
    **dict.fromkeys(("safety", "content_filtered"), "content_filter"),
}
_ABORTED = frozenset({"abort", "aborted", "cancelled", "canceled", "error"})


def loads(data: bytes) -> Any:
    """Parse JSON; raises `BadBackendResponse` where it is none.

    orjson refuses NaN and lone surrogates, which real backends send (log probabilities; an emoji cut in two), so
    the standard library has the last word.
    """
    try:
        return orjson.loads(data)
    except ValueError:
        pass
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise BadBackendResponse("The model's backend sent data that is not JSON.") from None


def dumps(value: Any) -> bytes:
    """Return compact UTF-8 JSON on one line."""
    try:
        return orjson.dumps(value)
    except TypeError:  # a lone surrogate, or an integer over 64 bits
        return json.dumps(value, separators=(",", ":")).encode()


def read_usage(value: object) -> Usage | None:
    """Return the counts of a `usage` object; None where it is not an object."""
    if not isinstance(value, dict):
        return None
    prompt, completion = _count(value, "prompt_tokens"), _count(value, "completion_tokens")
    details = value.get("prompt_tokens_details")
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=_count(value, "total_tokens") or prompt + completion,
        cached_tokens=_count(details, "cached_tokens") if isinstance(details, dict) else 0,
    )


def public_finish_reason(reason: object) -> str | None:
    """Return a backend's finish reason in OpenAI's words; raises `BadBackendResponse` for an aborted answer."""
    if reason is None or reason == "":
        return None
    word = reason.lower() if isinstance(reason, str) else ""
    if word in _ABORTED:
        raise BadBackendResponse("The model's backend aborted the answer.")
    return _FINISH_REASONS.get(word, "stop")


def find_member(raw: bytes, key: str, value: object) -> tuple[int, int] | None:
    """Return where the member `"key": value` lies in JSON text; None unless exactly one place has it.

    A quote inside a JSON string is always escaped, so a key can only be found where a key is. `value` is a string
    or an integer, as parsed from the top level of the same text.
    """
    if isinstance(value, str):
        pattern = rb'"%b"\s*:\s*("(?:[^"\\]|\\.)*")' % key.encode()
    elif isinstance(value, int) and not isinstance(value, bool):
        pattern = rb'"%b"\s*:\s*(-?\d+)(?=[,}])' % key.encode()
    else:
        return None
    spans = [match.span() for match in re.finditer(pattern, raw) if _is_value(match[1], value)]
    return spans[0] if len(spans) == 1 else None


def _is_value(text: bytes, value: object) -> bool:
    try:
        return bool(loads(text) == value)
    except BadBackendResponse:
        return False


def _count(value: dict[str, Any], key: str) -> int:
    number = value.get(key)
    return min(max(number, 0), MAX_TOKENS) if isinstance(number, int) and not isinstance(number, bool) else 0
