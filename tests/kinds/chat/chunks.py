"""Streams as backends send them, and what a client reads from ours."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from shared.kinds.chat.stream import SHAPE
from shared.kinds.common.stream import StreamTransformer

END = b"data: [DONE]\n\n"


def chunk(
    delta: dict[str, Any] | None = None, finish: str | None = None, index: int = 0, **extra: Any
) -> dict[str, Any]:
    """Return a chunk in vLLM's order of keys."""
    choice = {"index": index, "delta": delta or {}, "logprobs": None, "finish_reason": finish}
    return {
        "id": "chatcmpl-backend",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "meta/Llama",
        "choices": [choice],
        **extra,
    }


def usage_chunk(**usage: Any) -> dict[str, Any]:
    """Return the chunk that has usage alone."""
    counts = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, **usage}
    return {**chunk(), "choices": [], "usage": counts}


def event(value: object, separators: tuple[str, str] = (",", ":")) -> bytes:
    """Return one event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=separators).encode() + b"\n\n"


def stream(values: Iterable[object], separators: tuple[str, str] = (",", ":")) -> bytes:
    """Return a whole stream with its end."""
    return b"".join(event(value, separators) for value in values) + b"data: [DONE]\n\n"


def transformer(*, include_usage: bool = False) -> StreamTransformer:
    """Return a transformer as a worker makes it."""
    return StreamTransformer(SHAPE, job_id="j1", public_model="llama", include_usage=include_usage, created=1)


def run(data: bytes, *, include_usage: bool = False, cuts: Iterable[int] = ()) -> bytes:
    """Return all bytes that the client gets but the end, which must be there; raises what the transformer raises."""
    subject = transformer(include_usage=include_usage)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    out = b"".join(subject.feed(data[start:end]) for start, end in pairwise(places))
    out += subject.finish()
    assert out.endswith(END)
    return out.removesuffix(END)


def read(data: bytes) -> list[Any]:
    """Return the chunks in our own bytes, which must be nothing but one-line data events."""
    if not data:
        return []
    assert data.endswith(b"\n\n")
    events = data[:-2].split(b"\n\n")
    assert all(one.startswith(b"data: {") and b"\n" not in one for one in events)
    return [json.loads(one[6:]) for one in events]


def text(chunks: Iterable[dict[str, Any]], index: int = 0) -> str:
    """Return the content of one choice."""
    return "".join(
        choice["delta"].get("content") or "" for one in chunks for choice in one["choices"] if choice["index"] == index
    )
