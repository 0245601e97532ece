"""The vocabulary of backends' answers: bytes in, JSON values and usage out; and bytes again. No I/O."""

from __future__ import annotations

import json
import math
from typing import Any

import jiter
import orjson

from shared.errors import BadBackendResponse
from shared.jobs import Usage

VERY_UNLIKELY = -9999.0
"""What OpenAI gives as the `logprob` of a token that it does not expect at all."""
MAX_TOKENS = 1_000_000_000
"""Of one answer: what a backend counts beyond it is no count, and would spoil sums and shares."""


MAX_OBJECTS = 1_000_000
"""Objects and lists in one piece of JSON, and lines in one piece of a stream: each becomes an object of 70 bytes."""
_OPENINGS = b"{["


def loads(data: bytes) -> Any:
    """Parse JSON, integers of any size exactly; raises `BadBackendResponse` where it is none, or a bomb.

    The parser refuses lone surrogates, which real backends send (an emoji cut in two), so the standard library has
    the last word. Bytes that are no UTF-8 are read as U+FFFD, as browsers and SDKs do: the rest of the text is good.
    It has it on NaN and the infinities too, which Python's servers write and which are no numbers of JSON.
    """
    if len(data) > MAX_OBJECTS and len(data) - len(data.translate(None, _OPENINGS)) > MAX_OBJECTS:
        raise BadBackendResponse(f"The model's backend sent more than {MAX_OBJECTS} JSON objects at once.")
    try:
        # Without its cache of strings: a piece of an answer must not stay in memory beyond its job.
        return jiter.from_json(data, cache_mode="none", allow_inf_nan=False)
    except ValueError:
        pass
    try:
        return json.loads(data.decode("utf-8-sig", "replace"), object_hook=_with_a_number_as_logprob)
    except (ValueError, RecursionError):
        raise BadBackendResponse("The model's backend sent data that is not JSON.") from None


def _with_a_number_as_logprob(members: dict[str, Any]) -> dict[str, Any]:
    """Write the logarithm of zero as OpenAI does: its types know no null there, and strict clients lose the answer."""
    logprob = members.get("logprob")
    if isinstance(logprob, float) and not math.isfinite(logprob):
        members["logprob"] = VERY_UNLIKELY
    return members


def dumps(value: Any) -> bytes:
    """Return compact UTF-8 JSON on one line; NaN and the infinities, which Python's servers write, become null."""
    try:
        return orjson.dumps(value)
    except TypeError:  # a lone surrogate, or an integer over 64 bits
        return json.dumps(_finite(value), separators=(",", ":")).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_usage(value: object) -> Usage | None:
    """Return the counts of a `usage` object; None where it is not an object."""
    if not isinstance(value, dict):
        return None
    prompt, completion = _count(value, "prompt_tokens"), _count(value, "completion_tokens")
    details, more = value.get("prompt_tokens_details"), value.get("completion_tokens_details")
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=_count(value, "total_tokens") or prompt + completion,
        cached_tokens=_count(details, "cached_tokens") if isinstance(details, dict) else 0,
        reasoning_tokens=_count(more, "reasoning_tokens") if isinstance(more, dict) else 0,
    )


def _count(value: dict[str, Any], key: str) -> int:
    number = value.get(key)
    if isinstance(number, float) and number.is_integer() and number <= MAX_TOKENS:
        number = int(number)
    return min(max(number, 0), MAX_TOKENS) if isinstance(number, int) and not isinstance(number, bool) else 0
