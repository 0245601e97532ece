"""What in a backend's chunks must change, learnt from one parsed chunk, in; whole blocks of chunks changed out.

This is the hot path: no chunk is parsed here. A block is changed by splitting and joining its bytes, and only after
counts have shown that each of its chunks has the very bytes that were learnt, so that a chunk that deviates in any
way (a finish reason, usage, an error, another choice, other spacing) is left to be parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from shared.errors import BadBackendResponse
from shared.kinds.common.answers import dumps, find_member, loads

_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\{(?:\s*"(?:index|finish_reason|logprobs)"\s*:\s*(?:null|\d+)\s*,)*')
_OLD_ID, _NEW_ID = b'"@old-id@"', b'"@new-id@"'
_MAX_LESSON_BYTES = 4096
_DELTA = re.compile(r'"delta"\s*:\s*(?=\{)')
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Template:
    """The bytes around the delta, for streams whose chunks differ in nothing else: one split does it all."""

    head: bytes
    tail: bytes
    new_head: bytes
    new_tail: bytes

    def apply(self, block: bytes) -> bytes | None:
        """Return a block of events changed; None when any of them differs outside its delta."""
        if not (block.startswith(self.head) and block.endswith(self.tail)):
            return None
        head, tail = self.head, self.tail
        start, end = len(head), 2 - len(tail)
        if block.count(b"\n") == 2:  # one event, as in a stream that comes at reading speed
            delta = block[start : -len(tail)]
            if len(block) < start + len(tail) or block.count(b'"delta"') != 1:
                return None
            return self.new_head + delta + self.new_tail if delta.isascii() or _is_utf8(block) else None
        # Splitting at the blank lines and comparing is twice as fast as splitting at the long `tail + head`.
        events = block[:-2].split(b"\n\n")
        bare_tail = tail[:-2]
        deltas = [one[start:end] for one in events if one[:start] == head and one[end:] == bare_tail]
        count = len(deltas)
        # Two line ends an event: nothing else stands between them. One delta an event: it has one choice.
        if count != len(events) or block.count(b"\n") != 2 * count or block.count(b'"delta"') != count:
            return None
        if not block.isascii() and not _is_utf8(block):
            return None
        return self.new_head + (self.new_tail + self.new_head).join(deltas) + self.new_tail

    def count(self, events: Sequence[bytes]) -> int:
        """Return how many events from the first on look as learnt; `apply` still has the last word on them."""
        head, tail = self.head, self.tail[:-2]
        for index, event in enumerate(events):
            if not (event.startswith(head) and event.endswith(tail)):
                return index
        return len(events)


@dataclass(frozen=True, slots=True)
class Swaps:
    """Byte strings that each chunk of one stream has exactly once, each with what replaces it."""

    pairs: tuple[tuple[bytes, bytes], ...]
    null_finish: bytes
    null_usage: bytes
    first_index: bytes | None
    """Set where the choice's index lies outside the pairs, and so must be counted for itself."""
    keep_null_usage: bool
    template: Template | None = None

    def renamed(self, old_id: bytes, new_id: bytes) -> Swaps:
        """Return a lesson's swaps with the real ids in place of its marks."""
        pairs = tuple((old.replace(_OLD_ID, old_id), new.replace(_NEW_ID, new_id)) for old, new in self.pairs)
        template = self.template and Template(
            self.template.head.replace(_OLD_ID, old_id),
            self.template.tail.replace(_OLD_ID, old_id),
            self.template.new_head.replace(_NEW_ID, new_id),
            self.template.new_tail.replace(_NEW_ID, new_id),
        )
        return replace(self, pairs=pairs, template=template)

    def apply(self, block: bytes) -> bytes | None:
        r"""Return a block of `data: {…}\n\n` events changed; None when any of them must be parsed."""
        if self.template is not None:
            changed = self.template.apply(block)
            if changed is not None:
                return changed
        return self._apply_pairs(block) if block.startswith(b"data: {") else None

    def _apply_pairs(self, block: bytes) -> bytes | None:
        events = block.count(b"\n\ndata: {") + 1
        # Two line ends an event: nothing else stands between them.
        if block.count(b"\n") != 2 * events or b'"error"' in block:
            return None
        # One delta an event: it has one choice.
        if block.count(b'"delta"') != events or block.count(b'"finish_reason"') != block.count(self.null_finish):
            return None
        has_usage = b'"usage"' in block
        if has_usage and block.count(b'"usage"') != block.count(self.null_usage):
            return None
        if self.first_index is not None and block.count(b'"index"') != block.count(self.first_index):
            return None
        if not block.isascii() and not _is_utf8(block):
            return None
        for old, new in self.pairs:
            parts = block.split(old)
            if len(parts) != events + 1:
                return None
            block = new.join(parts)
        return block.replace(self.null_usage, b"") if has_usage and not self.keep_null_usage else block

    def apply_parsed(self, payload: bytes) -> bytes | None:
        """Return the JSON text of one chunk that was parsed and found good; None when its bytes deviate."""
        has_usage = b'"usage"' in payload and not self.keep_null_usage
        if has_usage and payload.count(b'"usage"') != payload.count(self.null_usage):
            return None
        for old, new in self.pairs:
            if payload.count(old) != 1:
                return None
            payload = payload.replace(old, new)
        return payload.replace(self.null_usage, b"") if has_usage else payload


def learn(
    payload: bytes, chunk: dict[str, Any], wanted: dict[str, Any], *, join: bool, keep_null_usage: bool
) -> Swaps | None:
    """Return how chunks that look like this one are changed; None when its bytes do not allow it.

    Args:
        payload: The chunk's JSON text, on one line.
        chunk: The same, parsed.
        wanted: The values of `id`, `created` and `model` to put in.
        join: Treat neighbouring members as one pair, which is faster and asks that what is between them is constant.
        keep_null_usage: Whether `"usage":null` stays.
    """
    given = chunk.get("id")
    old = dumps(given) if isinstance(given, str) else b""
    if not old or len(payload) > _MAX_LESSON_BYTES or payload.count(old) != 1 or _has_text(chunk):
        return _learn(payload, chunk, wanted, join=join, keep_null_usage=keep_null_usage)
    # All streams of a model begin alike but for their ids: one of them is learnt from, with marks in place of the ids.
    lesson = _lesson(payload.replace(old, _OLD_ID), wanted["created"], wanted["model"], join, keep_null_usage)
    return lesson and lesson.renamed(old, dumps(wanted["id"]))


@lru_cache(maxsize=64)
def _lesson(payload: bytes, created: int, model: str, join: bool, keep_null_usage: bool) -> Swaps | None:
    wanted = {"id": loads(_NEW_ID), "created": created, "model": model}
    return _learn(payload, loads(payload), wanted, join=join, keep_null_usage=keep_null_usage)


def _has_text(chunk: dict[str, Any]) -> bool:
    """Tell whether a chunk holds a piece of the answer, which must not stay in memory beyond its job."""
    delta = chunk["choices"][0].get("delta")
    return not isinstance(delta, dict) or any(delta[key] for key in delta if key != "role")


def _learn(
    payload: bytes, chunk: dict[str, Any], wanted: dict[str, Any], *, join: bool, keep_null_usage: bool
) -> Swaps | None:
    choices = list(_CHOICES.finditer(payload))
    if len(choices) != 1 or payload.count(b'"choices"') != 1:
        return None
    edits: list[tuple[int, int, bytes]] = [(*choices[0].span(), choices[0][0])]
    for key, value in wanted.items():
        span = find_member(payload, key, chunk.get(key))
        if span is None:
            return None
        start, end = span
        # A number's bytes must include what ends it: 12 is also the beginning of 123.
        delimiter = payload[end : end + 1] if isinstance(value, int) else b""
        head = payload[start : payload.index(b":", start) + 1]
        edits.append((start, end + len(delimiter), head + dumps(value) + delimiter))
    edits.sort()
    space = b" " if b'": ' in payload else b""
    swaps = Swaps(
        pairs=tuple(_pairs(payload, edits, join=join)),
        null_finish=b'"finish_reason":%bnull' % space,
        null_usage=b',%b"usage":%bnull' % (b" " if b', "' in payload else b"", space),
        first_index=None if b'"index"' in choices[0][0] else b'"index":%b0' % space,
        keep_null_usage=keep_null_usage,
    )
    if not _is_right(swaps, payload, {**chunk, **wanted}):
        return None
    return replace(swaps, template=_template(payload, swaps.apply_parsed(payload)))


def _template(payload: bytes, changed: bytes | None) -> Template | None:
    old, new = _around_delta(payload), _around_delta(changed or b"")
    if old is None or new is None:
        return None
    return Template(b"data: " + old[0], old[1] + b"\n\n", b"data: " + new[0], new[1] + b"\n\n")


def _around_delta(payload: bytes) -> tuple[bytes, bytes] | None:
    text = payload.decode()
    places = list(_DELTA.finditer(text))
    if len(places) != 1:
        return None
    start = places[0].end()
    _, end = _DECODER.raw_decode(text, start)
    return text[: start + 1].encode(), text[end - 1 :].encode()


def _pairs(payload: bytes, edits: list[tuple[int, int, bytes]], *, join: bool) -> list[tuple[bytes, bytes]]:
    pairs: list[tuple[bytes, bytes]] = []
    previous_end = -1
    for start, end, new in edits:
        old = payload[start:end]
        gap = payload[previous_end:start] if previous_end >= 0 else b"{"
        if join and not any(bracket in gap for bracket in (b"{", b"}", b"[", b"]")):
            pairs[-1] = (pairs[-1][0] + gap + old, pairs[-1][1] + gap + new)
        else:
            pairs.append((old, new))
        previous_end = end
    return pairs


def _is_right(swaps: Swaps, payload: bytes, expected: dict[str, Any]) -> bool:
    changed = payload
    for old, new in swaps.pairs:
        if changed.count(old) != 1:
            return False
        changed = changed.replace(old, new)
    try:
        return bool(loads(changed) == expected)
    except BadBackendResponse:
        return False


def _is_utf8(block: bytes) -> bool:
    try:
        block.decode()
    except UnicodeDecodeError:
        return False
    return True
