"""A backend's completion in, whole or as a stream; ours out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shared.jobs import JobSpec, Usage
from shared.kinds.common import plain
from shared.kinds.common.fold import Folder, folder_of, joined, merge
from shared.kinds.common.shape import Shape
from shared.kinds.common.stream import StreamTransformer, transformer_of

SHAPE = Shape(
    id_prefix="cmpl-",
    answer="text_completion",
    chunk="text_completion",
    finish_reasons=frozenset({"stop", "length", "content_filter"}),
    empty={"text": ""},
    has_text=lambda choice: bool(choice.get("text")),
    has_content=lambda choice: bool(choice.get("text")),
)


@dataclass(slots=True)
class TextChoice:
    """A choice whose text and log probabilities grow."""

    members: dict[str, Any] = field(default_factory=dict)

    def add(self, given: dict[str, Any]) -> None:
        """Take one chunk's part."""
        reason = given.get("finish_reason") or self.members.get("finish_reason")
        merge(self.members, {key: given[key] for key in given if key not in ("index", "finish_reason")})
        self.members["finish_reason"] = reason

    def whole(self, index: int) -> dict[str, Any]:
        """Return the choice of a plain answer."""
        return {"index": index, "text": "", "logprobs": None, **joined(self.members)}


def open_stream(spec: JobSpec, job_id: str) -> StreamTransformer:
    """Return a transformer for a job."""
    return transformer_of(SHAPE, spec, job_id)


def open_fold(spec: JobSpec, job_id: str) -> Folder:
    """Return a folder for a job."""
    return folder_of(SHAPE, TextChoice, spec, job_id)


def rewrite(body: bytes, spec: JobSpec, job_id: str) -> tuple[bytes, Usage | None]:
    """Return the body for a job's client and its usage; raises what is raised for an answer that is none."""
    return plain.rewrite(body, SHAPE, spec, job_id)
