"""A chat completion's chunks in, the message that a plain call would have given out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shared.errors import BadBackendResponse
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
        """Take one chunk's part; raises BadBackendResponse for tool calls that are none."""
        delta = given.get("delta")
        if isinstance(delta, dict):
            calls = delta.get("tool_calls") or []
            if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
                raise BadBackendResponse("The model's backend sent tool calls that are no list of JSON objects.")
            for call in calls:
                _fold_tool_call(self.tool_calls, call)
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


def _fold_tool_call(calls: dict[int, dict[str, Any]], given: dict[str, Any]) -> None:
    """Add a piece to its tool call: by index, else by a new id, else to the last one."""
    index = given.get("index")
    if not isinstance(index, int):
        known = next((number for number, call in calls.items() if call.get("id") == given.get("id")), None)
        last = max(calls, default=-1)
        if known is None:
            known = last + 1 if given.get("id") or last < 0 else last
        index = known
    merge(calls.setdefault(index, {}), {key: given[key] for key in given if key != "index"})
