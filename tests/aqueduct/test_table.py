"""Tables: in line, cut or told in parts so that no line is wider than the terminal."""

from __future__ import annotations

import pytest

from aqueduct.table import Column, table

COLUMNS = (Column("NAME"), Column("MODELS"), Column("WAITING", is_number=True), Column("RUNNING", is_number=True))
ROWS = [
    ("team-a", "llama,qwen,a-model-with-a-rather-long-name", "3", "12/32"),
    ("somebody-with-a-long-name@example.com", "*", "1000", "0/2"),
]


def test_without_a_terminal_everything_is_shown_in_line() -> None:
    lines = table(COLUMNS, [("a", "*", "3", "12/32"), ("bcdef", "x,y", "1000", "0/2")]).splitlines()
    assert lines == [
        "NAME   MODELS  WAITING  RUNNING",
        "a      *             3    12/32",
        "bcdef  x,y        1000      0/2",
    ]


@pytest.mark.parametrize("width", [200, 100, 80, 60, 48, 40, 30])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_lost(width: int) -> None:
    lines = table(COLUMNS, ROWS, width).splitlines()
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert all(number in text for row in ROWS for number in row[2:])


def test_text_is_cut_before_columns_move_below() -> None:
    cut = table(COLUMNS, ROWS, 60)
    assert "\n\n" not in cut
    assert "somebody-with-a-lo" in cut
    assert "…" in cut


def test_columns_that_do_not_fit_stand_below_behind_the_first_one() -> None:
    first, *more = table(COLUMNS, ROWS, 30).split("\n\n")
    assert first.split()[0] == "NAME"
    assert more
    for part in more:
        headings, a, b = part.splitlines()
        assert headings.startswith("NAME")
        assert a.startswith("team-a")
        assert b.startswith("somebody-wi…")


def test_a_name_tells_the_terminal_nothing() -> None:
    shown = table(COLUMNS, [("a\x1b[2J\x9b31m\nforged  row", "\u202ex", "3", "1/2")], 80)
    assert len(shown.splitlines()) == 2
    assert "\\x1b[2J\\x9b31m\\nforged" in shown and "\\u202ex" in shown
    assert not any(mark in shown for mark in "\x1b\x9b\u202e")
