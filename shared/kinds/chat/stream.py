"""A chat completion's words, and what reads its stream."""

from __future__ import annotations

from typing import Any

from shared.jobs import JobSpec
from shared.kinds.common.shape import Shape
from shared.kinds.common.stream import StreamTransformer, transformer_of


def _has_content(choice: dict[str, Any]) -> bool:
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(delta[key] for key in delta if key != "role")


def _has_text(choice: dict[str, Any]) -> bool:
    said = choice.get("delta") or choice.get("message")
    return isinstance(said, dict) and bool(said.get("content") or said.get("refusal"))


SHAPE = Shape(
    id_prefix="chatcmpl-",
    answer="chat.completion",
    chunk="chat.completion.chunk",
    finish_reasons=frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"}),
    empty={"delta": {}},
    role="assistant",
    has_text=_has_text,
    has_content=_has_content,
)


def open_stream(spec: JobSpec, job_id: str) -> StreamTransformer:
    """Return a transformer for a job."""
    return transformer_of(SHAPE, spec, job_id)
