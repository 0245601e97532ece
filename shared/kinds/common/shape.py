"""How the kinds whose answers have choices differ, in one value; `stream.py`, `fold.py` and `plain.py` go by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The words of one kind's answers."""

    id_prefix: str
    """An answer's id is this and the job's."""
    answer: str
    """`object` of a whole answer."""
    chunk: str
    """`object` of a stream's chunks."""
    finish_reasons: frozenset[str]
    """The only values that OpenAI's contract allows."""
    empty: dict[str, Any]
    """What a chunk's choice that says nothing has, beside its index and finish reason."""
    role: str | None = None
    """Who speaks in a message or in a choice's first delta, where the backend does not say; None where nobody does."""
    has_text: Callable[[dict[str, Any]], bool]
    """Whether a choice, whole or of a chunk, has text for the reader."""
    has_content: Callable[[dict[str, Any]], bool]
    """Whether a chunk's unfinished choice says anything: only then may the stream begin."""
