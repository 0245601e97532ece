"""A chat completion's chunks in, the message that a plain call would have given out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shared.jobs import JobSpec
from shared.kinds.chat.stream import SHAPE
from shared.kinds.common.fold import Folder, folder_of, joined, merge

_KNOWN = ("index", "delta", "logprobs", "finish_reason")


@dataclass(slots=True)
class ChatChoice:
    """A choice that grows by deltas."""

    message: dict[str, Any] = field(default_factory=dict)
    tool_calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None
    extras: dict[str, Any] = field(default_factory=dict)

    def add(self, given: dict[str, Any]) -> None:
        """Take one chunk's part, whose tool calls have their indexes."""
        delta = given.get("delta")
        if isinstance(delta, dict):
            for call in delta.get("tool_calls") or ():
                piece = {key: call[key] for key in call if key != "index"}
                merge(self.tool_calls.setdefault(call["index"], {}), piece)
            merge(self.message, {key: delta[key] for key in delta if key != "tool_calls"})
        if isinstance(given.get("logprobs"), dict):
            self.logprobs = self.logprobs or {}
            merge(self.logprobs, given["logprobs"], keep_null=True)
        self.finish_reason = given.get("finish_reason") or self.finish_reason
        self.extras.update({key: given[key] for key in given if key not in _KNOWN and given[key] is not None})

    def whole(self, index: int) -> dict[str, Any]:
        """Return the choice of a plain answer."""
        message = {"role": "assistant", "content": None, "refusal": None, **joined(self.message)}
        has_call = bool(self.tool_calls) or "function_call" in message
        if has_call and not message["content"]:
            message["content"] = None
        if self.tool_calls:
            message["tool_calls"] = [joined(self.tool_calls[number]) for number in sorted(self.tool_calls)]
        return {
            "index": index,
            "message": message,
            "logprobs": self.logprobs,
            "finish_reason": self.finish_reason,
            **self.extras,
        }


def open_fold(spec: JobSpec, job_id: str) -> Folder:
    """Return a folder for a job."""
    return folder_of(SHAPE, ChatChoice, spec, job_id)
