"""A record is one line, whatever a client or a backend wrote into it; nothing in it speaks to a terminal."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shared.logging import JsonFormatter, LineHandler, TextFormatter, escaped, write_line

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


def test_nothing_that_must_be_escaped_is_taken_for_harmless() -> None:
    unsafe = [chr(code) for code in range(sys.maxunicode + 1) if escaped(f"a{chr(code)}b") != f"a{chr(code)}b"]
    assert set(unsafe) >= {*HOSTILE.values(), *map(chr, range(32)), *map(chr, range(0xD800, 0xE000))}
    assert all(TextFormatter().format(record("m", field=f"a{one}b")).isprintable() for one in unsafe)


# --- lines that need no record ----------------------------------------------------------------------------------------

LOG = logging.getLogger("aqueduct.test.lines")
ODD: dict[str, Any] = {
    "none": None, "number": 3, "real": 0.25, "yes": True, "empty": "", "blank": "a b", "equals": "a=b", "quote": 'a"b',
    "slash": "a\\b", "quoted slash": "a \\ b", "hard blank": "a\u00a0b", "umlaut": "gr\u00fc\u00dfe",
    "wide": "\u4f60\u597d", "list": [1, "x"], "huge": 1 << 70,
    **HOSTILE,
}  # fmt: skip


class Out:
    """What our handler, as the only one of the process, has written."""

    def __init__(self, handler: LineHandler, reading: int) -> None:
        self.handler = handler
        self._reading = reading

    def lines(self) -> list[str]:
        """Return those since the last call, without the time."""
        self.handler.flush()
        text = os.read(self._reading, 65536).decode()
        return [re.sub(r"\d{4}-\S+?Z", "TIME", line) for line in text.splitlines()]


@contextmanager
def written() -> Iterator[Out]:
    """Have our handler alone, as in a process that serves: pytest adds its own before each test."""
    reading, writing = os.pipe()
    root, level = logging.getLogger(), LOG.level
    handlers = root.handlers[:]
    handler = LineHandler(writing)
    handler.setFormatter(TextFormatter())
    root.handlers[:] = [handler]
    LOG.setLevel("INFO")
    try:
        yield Out(handler, reading)
    finally:
        root.handlers[:] = handlers
        LOG.setLevel(level)
        handler.close()
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
@pytest.mark.parametrize("name", ["", "api"])
def test_a_line_without_a_record_is_the_records_line(
    monkeypatch: pytest.MonkeyPatch, formatter: logging.Formatter, name: str
) -> None:
    made: list[logging.LogRecord] = []
    before = logging.Logger.makeRecord

    def make(*arguments: Any, **more: Any) -> logging.LogRecord:
        made.append(before(*arguments, **more))
        return made[-1]

    monkeypatch.setattr(logging.Logger, "makeRecord", make)
    with written() as out:
        out.handler.setFormatter(formatter)
        out.handler.named = name
        for level in (logging.INFO, logging.WARNING, logging.ERROR):
            for key, value in ODD.items():
                fields = {"request_id": "req_1", key.replace(" ", "_"): value, "last": 1}
                write_line(LOG, level, fields, "%s done: %s", "POST", value)
                assert not made
                LOG.log(level, "%s done: %s", "POST", value, extra=fields)
                assert len(made) == 1
                made.clear()
                line, same = out.lines()
                assert line == same


@pytest.mark.parametrize("level", ["WARNING", "CRITICAL"])
def test_a_level_that_is_left_out_has_no_line(level: str) -> None:
    with written() as out:
        LOG.setLevel(level)
        write_line(LOG, logging.INFO, {}, "not this one")
        LOG.critical("but this one")
        assert out.lines() == ["TIME CRITICAL aqueduct.test.lines but this one"]


class _Seen(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def _by_handler(log: logging.Logger) -> Callable[[_Seen, pytest.MonkeyPatch], None]:
    def hook(seen: _Seen, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(log, "handlers", [*log.handlers, seen])

    return hook


def _by_filter(of_handler: bool) -> Callable[[_Seen, pytest.MonkeyPatch], None]:
    def look(seen: _Seen, record: logging.LogRecord) -> bool:
        seen.records.append(record)
        return True

    def hook(seen: _Seen, patch: pytest.MonkeyPatch) -> None:
        filtered = logging.getLogger().handlers[0] if of_handler else LOG
        patch.setattr(filtered, "filters", [lambda record: look(seen, record)])

    return hook


def _by_factory(seen: _Seen, patch: pytest.MonkeyPatch) -> None:
    def make(*arguments: Any, **more: Any) -> logging.LogRecord:
        made = logging.LogRecord(*arguments, **more)
        seen.records.append(made)
        return made

    patch.setattr(logging, "_logRecordFactory", make)


def _by_formatter(seen: _Seen, patch: pytest.MonkeyPatch) -> None:
    class Own(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            seen.records.append(record)
            return "shown otherwise"

    logging.getLogger().handlers[0].setFormatter(Own())


def _by_patch(seen: _Seen, patch: pytest.MonkeyPatch) -> None:
    """As tools do that report errors."""
    before = logging.Logger.callHandlers

    def call(self: logging.Logger, record: logging.LogRecord) -> None:
        seen.records.append(record)
        before(self, record)

    patch.setattr(logging.Logger, "callHandlers", call)


@pytest.mark.parametrize(
    "hook",
    [
        _by_handler(logging.getLogger()), _by_handler(logging.getLogger("aqueduct")), _by_handler(LOG),
        _by_filter(of_handler=False), _by_filter(of_handler=True), _by_factory, _by_formatter, _by_patch,
    ],
    ids=["of all", "of ours", "of this one", "filter", "filter of the handler", "factory", "formatter", "patch"],
)  # fmt: skip
def test_whoever_wants_to_see_records_sees_them(
    monkeypatch: pytest.MonkeyPatch, hook: Callable[[_Seen, pytest.MonkeyPatch], None]
) -> None:
    with written() as out:
        write_line(LOG, logging.INFO, {"status": 200}, "%s /", "GET")
        plain = out.lines()
        seen = _Seen()
        hook(seen, monkeypatch)
        write_line(LOG, logging.INFO, {"status": 200}, "%s /", "GET")
        (one,) = seen.records
        assert (one.msg, one.args, one.funcName) == ("%s /", ("GET",), "test_whoever_wants_to_see_records_sees_them")
        assert vars(one)["status"] == 200
        assert out.lines() == (["shown otherwise"] if hook is _by_formatter else plain)
        monkeypatch.undo()
