"""The operator's changes to a request's parameters, which may differ from backend to backend.

The API puts the members that any backend changes in front of a body's text and says how far they reach, so that a
worker parses these few alone: the rest, which may be 40 MB, is never encoded again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from shared.backend_parameters import Changes
from shared.kinds.common.answers import dumps, loads
from shared.kinds.common.body import text_without

_FRONT = "front"
"""The option that says up to which byte they reach, and which names they are."""


def text_for_job(
    body: Mapping[str, Any], names: Collection[str], changed: frozenset[str]
) -> tuple[bytes, dict[str, Any]]:
    """Return the body as JSON text without the members `names`, and what the job's options must say of it."""
    if not changed:
        return text_without(body, names), {}
    front = text_without(body, {*names, *(name for name in body if name not in changed)})
    rest = text_without(body, {*names, *changed})
    comma = b"," if len(front) > len(b"{}") and len(rest) > len(b"{}") else b""
    return front[:-1] + comma + rest[1:], {_FRONT: [len(front) - 1, sorted(changed)]}


def changed_members(
    body: bytes, options: Mapping[str, Any], changes: Changes, apart: Collection[str]
) -> tuple[bytes, bytes | memoryview]:
    """Return the members of a body's front after the changes, without braces, and the text behind them.

    `apart` are names that somebody else changes. A body that was made under other settings is parsed whole.
    """
    end, names = options.get(_FRONT, (0, ()))
    if not changes.names <= {*names}:
        end = len(body) - 1
    front: dict[str, Any] = loads(body[:end] + b"}")
    kept = {name: value for name, value in front.items() if name not in changes.dropped}
    given = {name for name, value in kept.items() if value is not None}
    added = [text for name, text in changes.defaults.items() if name not in given and name not in apart]
    added += [text for name, text in changes.forced.items() if name not in apart]
    kept = {name: value for name, value in kept.items() if value is not None or name not in changes.defaults}
    if kept:
        added.insert(0, dumps(kept)[1:-1])
    if body[end : end + 1] == b",":
        end += 1
    return b",".join(added), memoryview(body)[end:]
