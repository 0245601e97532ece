"""A backend's chunk stream in; the one `chat.completion` body that a plain call would have given out. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shared.errors import BadBackendResponse
from shared.jobs import JobSpec, Usage
from shared.kinds.chat.stream import StreamTransformer
from shared.kinds.common.answers import dumps, loads
from shared.kinds.common.sse import END, payloads

_IDENTITY_STRINGS = frozenset({"id", "type", "name", "role", "format"})
"""Strings that are given once, or repeated whole; all others come in pieces."""


@dataclass(slots=True)
class _Text:
    """A string that comes in pieces."""

    pieces: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Choice:
    message: dict[str, Any] = field(default_factory=dict)
    tool_calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None
    extras: dict[str, Any] = field(default_factory=dict)


class Folder:
    """Folds a stream, for backends that notice a lost caller only while they stream."""

    def __init__(self, *, job_id: str, public_model: str, created: int) -> None:
        """Take the same as `StreamTransformer`, which does the reading."""
        self._stream = StreamTransformer(job_id=job_id, public_model=public_model, include_usage=True, created=created)
        self._body: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}

    @property
    def usage(self) -> Usage | None:
        """The backend's usage, as far as it has come."""
        return self._stream.usage

    @property
    def finish_reasons(self) -> dict[int, str]:
        """The public finish reason of each choice that has ended."""
        return self._stream.finish_reasons

    @property
    def done(self) -> bool:
        """Nothing more is to be read; call `result`."""
        return self._stream.done

    @property
    def has_content(self) -> bool:
        """Whether any content has come; none of it has left."""
        return self._stream.has_content

    def feed(self, data: bytes) -> None:
        """Take bytes of the stream, cut anywhere; raises what `StreamTransformer.feed` raises."""
        self._fold(self._stream.feed(data))

    def result(self) -> bytes:
        """Return the body once the stream has ended; raises what `StreamTransformer.finish` raises."""
        self._fold(self._stream.finish())
        body = {key: self._body.get(key) for key in ("id", "object", "created", "model")}
        body["object"] = "chat.completion"
        body["choices"] = [_choice(index, self._choices[index]) for index in sorted(self._choices)]
        return dumps({**body, **{key: self._body[key] for key in self._body if key not in body}})

    def _fold(self, block: bytes) -> None:
        for payload, _ in payloads(block):
            if payload == END:
                return
            chunk = loads(payload)
            for key, value in chunk.items():
                if key not in ("choices", "obfuscation") and value is not None:
                    self._body[key] = value
            for choice in chunk["choices"]:
                if isinstance(choice, dict):
                    self._fold_choice(choice)

    def _fold_choice(self, given: dict[str, Any]) -> None:
        choice = self._choices.setdefault(given["index"], _Choice())
        delta = given.get("delta")
        if isinstance(delta, dict):
            calls = delta.get("tool_calls") or []
            if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
                raise BadBackendResponse("The model's backend sent tool calls that are no list of JSON objects.")
            for call in calls:
                _fold_tool_call(choice.tool_calls, call)
            _merge(choice.message, {key: delta[key] for key in delta if key != "tool_calls"})
        if isinstance(given.get("logprobs"), dict):
            choice.logprobs = choice.logprobs or {}
            _merge(choice.logprobs, given["logprobs"], keep_null=True)
        choice.finish_reason = given.get("finish_reason") or choice.finish_reason
        known = ("index", "delta", "logprobs", "finish_reason")
        choice.extras.update({key: given[key] for key in given if key not in known and given[key] is not None})


def open_fold(spec: JobSpec, job_id: str) -> Folder:
    """Return a folder for a job."""
    return Folder(job_id=job_id, public_model=spec.public_model, created=spec.created)


def _fold_tool_call(calls: dict[int, dict[str, Any]], given: dict[str, Any]) -> None:
    """Add a piece to its tool call: by index, else by a new id, else to the last one."""
    index = given.get("index")
    if not isinstance(index, int):
        known = next((number for number, call in calls.items() if call.get("id") == given.get("id")), None)
        last = max(calls, default=-1)
        if known is None:
            known = last + 1 if given.get("id") or last < 0 else last
        index = known
    _merge(calls.setdefault(index, {}), {key: given[key] for key in given if key != "index"})


def _merge(target: dict[str, Any], given: dict[str, Any], *, keep_null: bool = False) -> None:
    """Add a piece: text and lists grow, objects are merged, anything else is replaced."""
    for key, value in given.items():
        old = target.get(key)
        if value is None:
            if keep_null:
                target.setdefault(key, None)
        elif isinstance(value, str) and key not in _IDENTITY_STRINGS:
            text = target[key] = old if isinstance(old, _Text) else _Text()
            text.pieces.append(value)
        elif isinstance(value, str):
            target[key] = old or value
        elif isinstance(value, list):
            grown = target[key] = old if isinstance(old, list) else []
            grown.extend(value)
        elif isinstance(value, dict):
            target[key] = old if isinstance(old, dict) else {}
            _merge(target[key], value, keep_null=keep_null)
        else:
            target[key] = value


def _choice(index: int, choice: _Choice) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, "refusal": None, **_joined(choice.message)}
    has_call = bool(choice.tool_calls) or "function_call" in message
    if has_call and not message["content"]:
        message["content"] = None
    if choice.tool_calls:
        message["tool_calls"] = [_joined(choice.tool_calls[number]) for number in sorted(choice.tool_calls)]
    return {
        "index": index,
        "message": message,
        "logprobs": choice.logprobs,
        "finish_reason": choice.finish_reason,
        **choice.extras,
    }


def _joined(value: dict[str, Any]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, _Text):
            joined[key] = "".join(item.pieces)
        else:
            joined[key] = _joined(item) if isinstance(item, dict) else item
    return joined
