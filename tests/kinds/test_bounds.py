"""A backend's bytes become no more objects than a worker has memory for; what real answers hold is read."""

from __future__ import annotations

import pytest

from shared.errors import BadBackendResponse
from shared.kinds.common.answers import MAX_OBJECTS, loads
from shared.kinds.common.sse import payloads


@pytest.mark.parametrize("piece", [b"{},", b"[],", b'{"a":[]},'])
def test_more_objects_than_memory_has_room_for_are_refused_unread(piece: bytes) -> None:
    with pytest.raises(BadBackendResponse, match="1000000 JSON objects"):
        loads(b"[" + piece * MAX_OBJECTS + b"0]")


def test_long_lists_of_numbers_and_long_texts_are_read() -> None:
    assert len(loads(b"[" + b"0.25," * 1_500_000 + b"0]")) == 1_500_001  # as embeddings are
    assert len(loads(b'"' + b"," * 2_000_000 + b'"')) == 2_000_000


@pytest.mark.parametrize("piece", [b"data: a\n", b"data: {}\n\n", b":\n"])
def test_more_lines_than_memory_has_room_for_are_refused_unread(piece: bytes) -> None:
    with pytest.raises(BadBackendResponse, match="1000000 lines"):
        payloads(piece * (MAX_OBJECTS + 1))


def test_a_long_stream_is_read() -> None:
    assert len(payloads(b'data: {"a": 1}\n\n' * 100_000)) == 100_000
