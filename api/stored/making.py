"""An ended job, as Redis holds it, in; what the store keeps of it out. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from api.stored import keys
from api.stored.record import StoredRecord
from shared import events
from shared.errors import ToldError, from_wire
from shared.kinds import KINDS, Kind
from shared.kinds.common.answers import dumps, loads
from shared.room.stored import Known

_SHOWN: Final = (
    "tools", "tool_choice", "seed", "temperature", "top_p", "presence_penalty", "frequency_penalty", "response_format",
)  # fmt: skip
"""Parameters that OpenAI shows with a stored completion; `user` is `input_user` there."""


@dataclass(frozen=True, slots=True)
class Made:
    """What is to be stored of one job."""

    tenant: str
    """Its token's name."""
    record: StoredRecord
    json: bytes
    """The record as the store holds it. Made here: what cannot be written is found before anything is."""
    messages: bytes
    """OpenAI's list of what was asked, as JSON."""
    events: bytes | None
    """A stream as its client got it, without the error that it may have ended in; None for a plain answer."""


def make(known: Known, lifetime_seconds: int) -> Made:
    """Return what is to be stored; raises ValueError for what is no ended job of a kind that is stored."""
    kind = KINDS.get(known.spec.kind)
    if kind is None or kind.fold is None or not known.events or known.events[-1][0] not in events.ENDINGS:
        raise ValueError("no ended job that could be stored")
    asked: dict[str, Any] = loads(known.body) if known.body else {}
    last = known.events[-1]
    error = from_wire(last[1:]) if last[0] == events.FAILED else None
    completion = _of_stream(kind, known, error) if known.spec.stream else _of_plain(known.events, error)
    completion_id = keys.PREFIX + known.id
    record = StoredRecord(
        id=completion_id,
        expires_at=int(known.id[:14], 16) // 1_000_000 + lifetime_seconds,
        model=known.spec.public_model,
        is_stream=known.spec.stream,
        completion=completion,
        request={**{name: asked.get(name) for name in _SHOWN}, "input_user": asked.get("user")},
        metadata=asked.get("metadata") or {},
        error=None if error is None else error.body()["error"],
        status=200 if error is None else error.status,
        trace=known.spec.trace,
    )
    sent = b"".join(_chunks(known.events)) if known.spec.stream else None
    messages = dumps(_messages(asked.get("messages") or [], completion_id))
    return Made(known.tenant, record, record.to_json(), messages, sent)


def _chunks(told: Sequence[bytes]) -> list[bytes]:
    return [event[1:] for event in told if event[0] == events.CHUNKS]


def _of_stream(kind: Kind, known: Known, error: ToldError | None) -> dict[str, Any] | None:
    """Return the body that a stream's chunks make; None where there are none."""
    chunks = _chunks(known.events)
    if not chunks:
        return None
    if kind.fold is None:
        raise ValueError("this kind is not stored")
    folder = kind.fold(known.spec, known.id)
    for chunk in chunks:
        folder.feed(chunk)
    if error is not None:
        return _with_choices(loads(folder.so_far()))
    whole: dict[str, Any] = loads(folder.result())
    done = events.read_completed(known.events[-1])
    if "usage" not in whole and done.prompt_tokens >= 0:  # counted, though the client did not ask for it
        total = done.prompt_tokens + done.completion_tokens
        whole["usage"] = {
            "prompt_tokens": done.prompt_tokens, "completion_tokens": done.completion_tokens, "total_tokens": total
        }  # fmt: skip
    return whole


def _with_choices(body: dict[str, Any]) -> dict[str, Any] | None:
    return body if body["choices"] else None


def _of_plain(told: Sequence[bytes], error: ToldError | None) -> dict[str, Any] | None:
    if error is not None:
        return None
    parts = [event[1:] for event in told if event[0] == events.PART]
    body: dict[str, Any] = loads(b"".join([*parts, events.read_completed(told[-1]).body]))
    return body


def _messages(given: Sequence[dict[str, Any]], completion_id: str) -> list[dict[str, Any]]:
    """Return messages as OpenAI lists them: each with an id, and parts apart from text."""
    shown = []
    for number, message in enumerate(given):
        content = message.get("content")
        parts = content if isinstance(content, list) else None
        shown.append(
            {
                "refusal": None,
                "name": None,
                **message,
                "id": f"{completion_id}-{number}",
                "content": content if parts is None else None,
                "content_parts": parts,
            }
        )
    return shown
