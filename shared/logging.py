"""Log records as text or JSON lines, each with the request id it belongs to. Prompts and keys are never logged.

Whatever a client or a backend had a hand in stays inside of its line: what could begin another one, or would tell a
terminal to do something, is written as an escape.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from types import TracebackType
from typing import Any, Literal

import orjson

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls (C0, DEL, C1), what ends a line or turns its direction, and halves of pairs, which cannot be written."""
_NEEDS_QUOTES = re.compile(r'[\s"=]|^$')
_PLAIN = re.compile(r"[\w.:/@%+-]+", re.ASCII)
"""What nearly every value is made of: shown as it is, without a further look."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class _Fields(logging.Formatter):
    """Shows the fields given with `extra=` beside the message."""

    def __init__(self) -> None:
        super().__init__()
        self._second = -1
        self._stamp = ""

    def fields(self, record: logging.LogRecord) -> dict[str, Any]:
        return {key: value for key, value in vars(record).items() if key not in _STANDARD and key[0] != "_"}

    def stamp(self, record: logging.LogRecord) -> str:
        """Return when it happened; the part down to the second is made once a second."""
        second = int(record.created)
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._stamp}.{int(record.msecs):03d}Z"


def escaped(text: str) -> str:
    r"""Return the text as one harmless line: `\n`, `\x1b`, `\u202e` in the place of what they stand for."""
    return _UNSAFE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode()


def _json_escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _shown(value: str | float | None) -> str:
    if not isinstance(value, str):
        return "-" if value is None else str(value)
    if _PLAIN.fullmatch(value):
        return value
    if _NEEDS_QUOTES.search(value):
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return escaped(value)


class TextFormatter(_Fields):
    """`2026-01-31T12:00:00.123Z INFO aqueduct.api request finished request_id=req_… status=200`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and the traceback if there is one."""
        fields = "".join(
            f" {key}={_shown(value)}"
            for key, value in self.fields(record).items()
            if value is None or isinstance(value, str | int | float)
        )
        message = escaped(record.getMessage())
        line = f"{self.stamp(record)} {record.levelname} {record.name} {message}{fields}"
        return line + (self._indented(record.exc_info) if record.exc_info else "")

    def _indented(self, exc_info: Any) -> str:
        """Return the traceback set off, so that no line of an exception's text looks like a record."""
        return "".join(f"\n  {escaped(line)}" for line in self.formatException(exc_info).split("\n"))


def _json(entry: dict[str, Any]) -> str:
    try:
        return orjson.dumps(entry, default=str).decode()
    except TypeError:  # half of a character pair, or an integer of more than 64 bits
        return json.dumps(entry, ensure_ascii=False, default=str)


class JsonFormatter(_Fields):
    """One JSON object a line: time, level, logger, message, and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON."""
        entry: dict[str, Any] = {
            "time": self.stamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self.fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        # What JSON itself leaves as it is stands inside of its strings, where an escape means the same.
        return _UNSAFE.sub(_json_escape, _json(entry))


def configure_logging(log_format: Literal["text", "json"], level: str) -> None:
    """Send every record of this process to standard error in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.getLogger().handlers[:] = [handler]
    set_level(level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True
    # At each start it tells of workers that have not answered yet.
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)
    # Whatever the interpreter would print itself is a line like all others.
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def set_level(level: str) -> None:
    """Leave records below a level out from now on."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    # Some of them show requests at debug, `hpack` even their headers and so keys; uvicorn's on starting and ending
    # say less than ours.
    for name in ("celery", "kombu", "amqp", "aiohttp", "httpx", "httpcore", "httpcore2", "hpack", "h2", "asyncio",
                 "uvicorn.error"):  # fmt: skip
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is None or issubclass(kind, KeyboardInterrupt | SystemExit):
        return
    logging.getLogger("aqueduct").critical("uncaught: %s", kind.__name__, exc_info=(kind, error, trace))
