"""A backend's chunk stream in; the one body that a plain call would have given out. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from shared.jobs import JobSpec, Usage
from shared.kinds.common.answers import dumps, loads
from shared.kinds.common.shape import Shape
from shared.kinds.common.sse import END, payloads
from shared.kinds.common.stream import StreamTransformer

_IDENTITY_STRINGS = frozenset({"id", "type", "name", "role", "format"})
"""Strings that are given once, or repeated whole; all others come in pieces."""


class Choice(Protocol):
    """A choice that grows."""

    def add(self, given: dict[str, Any]) -> None:
        """Take one chunk's part of it."""

    def whole(self, index: int) -> dict[str, Any]:
        """Return it as a plain answer has it."""


class Folder:
    """Folds a stream, for backends that notice a lost caller only while they stream."""

    def __init__(self, stream: StreamTransformer, *, answer: str, choice: Callable[[], Choice]) -> None:
        """Take what does the reading (it must keep the usage chunk), the answer's `object`, and what makes a choice."""
        self._stream = stream
        self._answer = answer
        self._new_choice = choice
        self._body: dict[str, Any] = {}
        self._choices: dict[int, Choice] = {}

    @property
    def usage(self) -> Usage | None:
        """The backend's usage, as far as it has come."""
        return self._stream.usage

    @property
    def done(self) -> bool:
        """Nothing more is to be read; call `result`."""
        return self._stream.done

    def feed(self, data: bytes) -> None:
        """Take bytes of the stream, cut anywhere; raises what `StreamTransformer.feed` raises."""
        self._fold(self._stream.feed(data))

    def result(self) -> bytes:
        """Return the body once the stream has ended; raises what `StreamTransformer.finish` raises."""
        self._fold(self._stream.finish())
        body = {key: self._body.get(key) for key in ("id", "object", "created", "model")}
        body["object"] = self._answer
        body["choices"] = [self._choices[index].whole(index) for index in sorted(self._choices)]
        return dumps({**body, **{key: self._body[key] for key in self._body if key not in body}})

    def _fold(self, block: bytes) -> None:
        for payload, _ in payloads(block):
            if payload == END:
                return
            chunk = loads(payload)
            for key, value in chunk.items():
                if key not in ("choices", "obfuscation") and value is not None:
                    self._body[key] = value
            for given in chunk["choices"]:
                index = given["index"]
                if index not in self._choices:
                    self._choices[index] = self._new_choice()
                self._choices[index].add(given)


def folder_of(shape: Shape, choice: Callable[[], Choice], spec: JobSpec, job_id: str) -> Folder:
    """Return a folder for a job; `choice` makes what one of its choices grows in."""
    stream = StreamTransformer(
        shape, job_id=job_id, public_model=spec.public_model, include_usage=True, created=spec.created, tier=spec.tier
    )
    return Folder(stream, answer=shape.answer, choice=choice)


@dataclass(slots=True)
class _Text:
    """A string that comes in pieces."""

    pieces: list[str] = field(default_factory=list)


def merge(target: dict[str, Any], given: dict[str, Any], *, keep_null: bool = False) -> None:
    """Add a piece: text and lists grow, objects are merged, anything else is replaced. Read the sum with `joined`."""
    for key, value in given.items():
        old = target.get(key)
        if value is None:
            if keep_null:
                target.setdefault(key, None)
        elif key == "content" and isinstance(value, list | str) and isinstance(old, list | _Text):
            target[key] = _both(old, value)
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
            merge(target[key], value, keep_null=keep_null)
        else:
            target[key] = value


def _both(old: list[Any] | _Text, given: list[Any] | str) -> list[Any] | _Text:
    """Return content grown by a piece: parts as soon as any came in parts, as Mistral thinks in parts and then writes.

    A part's text grows as a text does, so that a long answer is not copied with each piece of it.
    """
    if isinstance(old, _Text) and isinstance(given, str):
        old.pieces.append(given)
        return old
    parts = old if isinstance(old, list) else _text_parts(old.pieces)
    for part in _text_parts([given]) if isinstance(given, str) else given:
        pieces, more = _pieces_of(parts[-1]) if parts else None, _pieces_of(part)
        if pieces is None or more is None:
            parts.append(part)
        else:
            parts[-1]["text"] = pieces
            pieces.pieces.extend(more.pieces)
    return parts


def _text_parts(pieces: list[str]) -> list[Any]:
    return [{"type": "text", "text": _Text(pieces)}] if any(pieces) else []


def _pieces_of(part: Any) -> _Text | None:
    """Return the text of a part that is nothing but text."""
    text = part["text"] if isinstance(part, dict) and part.keys() == {"type", "text"} else None
    if isinstance(text, str):
        return _Text([text])
    return text if isinstance(text, _Text) else None


def joined(value: dict[str, Any]) -> dict[str, Any]:
    """Return what `merge` has gathered, with each text in one piece."""
    whole: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, _Text):
            whole[key] = "".join(item.pieces)
        elif isinstance(item, list):
            whole[key] = [joined(one) if isinstance(one, dict) else one for one in item]
        else:
            whole[key] = joined(item) if isinstance(item, dict) else item
    return whole
