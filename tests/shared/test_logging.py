"""A record is one line, whatever a client or a backend wrote into it; nothing in it speaks to a terminal."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from shared.logging import JsonFormatter, TextFormatter

FORGED = "2026-11-25T00:00:00.000Z CRITICAL aqueduct FORGED"
HOSTILE = {
    "line feed": "\n", "carriage return": "\r", "null": "\0", "escape": "\x1b", "bell": "\x07", "delete": "\x7f",
    "next line": "\x85", "C1 escape": "\x9b", "line separator": "\u2028", "paragraph separator": "\u2029",
    "right to left": "\u202e", "isolate": "\u2066", "mark": "\u200f", "vertical tab": "\v", "form feed": "\f",
    "half a pair": "\ud800",
}  # fmt: skip


def record(message: str, **fields: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "aqueduct.test", "levelname": "INFO", "msg": message, **fields})


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_controls_are_escaped_in_message_and_fields(formatter: logging.Formatter, kind: str) -> None:
    hostile = HOSTILE[kind]
    line = formatter.format(record(f"a{hostile}{FORGED}", code=f"b{hostile}{FORGED}"))
    assert hostile not in line
    assert len(line.splitlines()) == 1
    assert line.encode()  # it can be written
    assert line.count("FORGED") == 2


def test_text_quotes_what_would_read_as_further_fields() -> None:
    line = TextFormatter().format(record("done", code='x status="200"', model="a b", empty="", ms=3, path="/v1/x"))
    assert line.endswith(r'INFO aqueduct.test done code="x status=\"200\"" model="a b" empty="" ms=3 path=/v1/x')


def test_json_says_the_same_as_was_logged() -> None:
    said = "".join(hostile for kind, hostile in HOSTILE.items() if kind != "half a pair") + "é€𝄞"
    read = json.loads(JsonFormatter().format(record(said, code=said)))
    assert read["message"] == read["code"] == said


def test_ordinary_text_of_any_language_stays_readable() -> None:
    assert TextFormatter().format(record("grüße 你好 🙂")).endswith("grüße 你好 🙂")


def test_no_line_of_a_traceback_looks_like_a_record() -> None:
    try:
        raise RuntimeError(f"first\n{FORGED}\x1b[2J")
    except RuntimeError:
        text = TextFormatter().format(record("failed", exc_info=sys.exc_info()))
    head, *rest = text.split("\n")
    assert head.endswith("INFO aqueduct.test failed")
    assert all(line.startswith("  ") for line in rest)
    assert "\x1b" not in text
