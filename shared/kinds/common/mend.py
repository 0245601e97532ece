"""One choice of a backend's answer in, the same choice as OpenAI's contract allows it out. No I/O.

The one place where whole, streamed and folded answers are mended (`docs/protocol.md`, "What of an answer is mended").
"""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Any

from shared.errors import BadBackendResponse
from shared.kinds.common.shape import Shape

_PUBLIC = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
_FINISH_REASONS = {
    **dict.fromkeys(
        ("eos", "eos_token", "eot", "stop_token", "stop_sequence", "end_turn", "complete", "completed", "finished"),
        "stop",
    ),
    **dict.fromkeys(("max_tokens", "max_length", "max_output_tokens", "max_new_tokens"), "length"),
    **dict.fromkeys(("model_length", "model_context_window_exceeded", "context_length_exceeded"), "length"),
    **dict.fromkeys(("tool_call", "tool_use", "tool_calls_required"), "tool_calls"),
    **dict.fromkeys(("safety", "content_filtered", "sensitive", "recitation", "blocklist"), "content_filter"),
    **dict.fromkeys(("prohibited_content", "spii", "refusal", "guardrail_intervened"), "content_filter"),
}
_ABORTED = frozenset(
    {"abort", "aborted", "cancelled", "canceled", "error", "failed", "failure", "timeout", "network_error"}
    | {"insufficient_system_resource", "server_error", "internal_error", "malformed_function_call"}
)
_LAST_SECOND = 2**53
"""What JavaScript's numbers hold; a later `created` is none."""


def mend_choice(choice: dict[str, Any], place: int, shape: Shape) -> int:
    """Give a choice a whole index and a finish reason of the contract or null; return its index.

    Raises:
        BadBackendResponse: The finish reason tells of a failure.
    """
    index = choice.get("index")
    if type(index) is not int or index < 0:
        index = choice["index"] = _whole(index, place)
    given = choice.get("finish_reason")
    if given is not None:
        choice["finish_reason"] = public_finish_reason(given, shape.finish_reasons)
    return index


def mend_role(said: Any, shape: Shape) -> None:
    """Say who speaks in a message or a choice's first delta: clients that wait for it lose the answer without."""
    if isinstance(said, dict) and shape.role is not None and not said.get("role"):
        said["role"] = shape.role


def public_finish_reason(reason: object, allowed: Container[str]) -> str | None:
    """Return a backend's finish reason as one of those allowed; None for an unknown word, which proves no good end.

    Raises:
        BadBackendResponse: The answer was aborted.
    """
    if not isinstance(reason, str):
        return None
    if reason in allowed:
        return reason
    word = reason.partition(":")[0].lower().replace("-", "_")  # some tell more behind a colon
    if word in _ABORTED:
        raise BadBackendResponse("The model's backend aborted the answer.")
    if word in allowed:
        return word
    public = _FINISH_REASONS.get(word, word)
    if public in allowed:
        return public
    return "stop" if public in _PUBLIC else None  # a good end that this kind of answer has no word for


def whole_created(given: object, default: int) -> int:
    """Return a backend's `created` as whole seconds, which clients in Go, Rust and .NET insist on, or the default."""
    created = _whole(given, 0)
    return created if 0 < created < _LAST_SECOND else default


def usage_beside(choice: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any] | None:
    """Return usage that stands in the choice (Moonshot) or among a server's own members (Groq's `x_groq`)."""
    for holder in (choice, answer.get("x_groq")):
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if isinstance(usage, dict):
            return usage
    return None


def whole_usage(given: dict[str, Any]) -> dict[str, Any]:
    """Return usage with the three counts that clients insist on, as whole numbers; what else stands there stays."""
    prompt, completion = _whole(given.get("prompt_tokens"), 0), _whole(given.get("completion_tokens"), 0)
    total = _whole(given.get("total_tokens"), prompt + completion)
    return {**given, "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def _whole(given: object, default: int) -> int:
    """Return a number that is spelled as a float or as text as an integer from 0."""
    if isinstance(given, str) and len(given) <= 20 and given.isascii() and given.isdecimal():
        return int(given)
    if type(given) is int:  # of any size: no float need hold it
        return given if given >= 0 else default
    return int(given) if isinstance(given, float) and math.isfinite(given) and given >= 0 else default
