"""Numbers of a stored stream's events: `Cursor`."""

from __future__ import annotations

from api.stored.cursor import Cursor

TWO = b'data: {"a":1}\n\ndata: {"b":2}\n\n'
DONE = b"data: [DONE]\n\n"


def test_each_event_has_its_place_and_the_end_has_none() -> None:
    cursor = Cursor()
    assert cursor.numbered(TWO) == b'id: 0\ndata: {"a":1}\n\nid: 1\ndata: {"b":2}\n\n'
    assert cursor.numbered(b"data: 3\n\n" + DONE) == b"id: 2\ndata: 3\n\n" + DONE
    assert cursor.numbered(DONE) == DONE


def test_what_a_reader_has_is_left_out_and_counted() -> None:
    cursor = Cursor(after=2)
    assert cursor.numbered(TWO) == b""
    assert cursor.numbered(TWO + DONE) == b'id: 3\ndata: {"b":2}\n\n' + DONE


def test_what_could_not_be_written_is_numbered_the_same_again() -> None:
    cursor, written, takes = Cursor(), list[bytes](), [True, False]

    def write(data: bytes) -> bool:
        if not takes.pop(0):
            return False
        written.append(data)
        return True

    direct = cursor.writer(write)
    assert direct is not None and direct(b"data: 0\n\n") and not direct(b"data: 1\n\n")
    assert [*written, cursor.numbered(b"data: 1\n\n")] == [b"id: 0\ndata: 0\n\n", b"id: 1\ndata: 1\n\n"]
    assert cursor.writer(None) is None
