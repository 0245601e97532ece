"""Log records as text or JSON lines, each with the request id it belongs to. Prompts and keys are never logged.

Whatever a client or a backend had a hand in stays inside of its line: what could begin another one, or would tell a
terminal to do something, is written as an escape.

`write_line` is for the lines of requests and runs, which nobody waits for: it makes no record where nobody but our own
handler would see one, and the line is gathered with others. All other lines are written before their call returns.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Literal

import orjson

from shared.log_output import LogOutput

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls (C0, DEL, C1), what ends a line or turns its direction, and halves of pairs, which cannot be written."""
_NEEDS_QUOTES = re.compile(r'[\s"=]|^$')
_SHOWN = (str, int, float, type(None))
"""Of these a text line has the fields."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class _Fields(logging.Formatter, ABC):
    """Shows the fields given with `extra=` beside the message."""

    def __init__(self) -> None:
        super().__init__()
        self._stamp = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD and key[0] != "_"}
        stamp = self.stamp(int(record.created), int(record.msecs))
        return self.line(stamp, record.levelname, record.name, record.getMessage(), fields, record.exc_info)

    @abstractmethod
    def line(
        self, stamp: str, level: str, name: str, message: str, fields: Mapping[str, Any], exc_info: Any = None
    ) -> str:
        """Return one line, and the traceback if there is one."""

    def stamp(self, second: int, millisecond: int) -> str:
        """Return when it happened; the part down to the second is made once a second."""
        made, text = self._stamp  # as one, since more than one thread makes lines
        if second != made:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._stamp = second, text
        return f"{text}.{millisecond:03d}Z"


def escaped(text: str) -> str:
    r"""Return the text as one harmless line: `\n`, `\x1b`, `\u202e` in the place of what they stand for."""
    # Most text is: nothing that must be escaped is printable.
    return text if text.isprintable() else _UNSAFE.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode()


def _json_escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _shown(value: str | float | None) -> str:
    if not isinstance(value, str):
        return "-" if value is None else str(value)
    # What nearly every value is: nothing to quote or to escape. A blank is the only white space that is printable.
    if value and value.isprintable() and " " not in value and '"' not in value and "=" not in value:
        return value
    if _NEEDS_QUOTES.search(value):
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return escaped(value)


class TextFormatter(_Fields):
    """`2026-01-31T12:00:00.123Z INFO aqueduct.api request finished request_id=req_… status=200`."""

    def line(
        self, stamp: str, level: str, name: str, message: str, fields: Mapping[str, Any], exc_info: Any = None
    ) -> str:
        """Return one line, and the traceback if there is one."""
        shown = "".join([f" {key}={_shown(value)}" for key, value in fields.items() if isinstance(value, _SHOWN)])
        line = f"{stamp} {level} {name} {escaped(message)}{shown}"
        return line + (self._indented(exc_info) if exc_info else "")

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

    def line(
        self, stamp: str, level: str, name: str, message: str, fields: Mapping[str, Any], exc_info: Any = None
    ) -> str:
        """Return one line of JSON."""
        entry = {"time": stamp, "level": level.lower(), "logger": name, "message": message, **fields}
        if exc_info:
            entry["exception"] = self.formatException(exc_info)
        text = _json(entry)
        # What JSON itself leaves as it is stands inside of its strings, where an escape means the same.
        return text if text.isprintable() else _UNSAFE.sub(_json_escape, text)


class LineHandler(logging.Handler):
    """Hands the lines of this process to its output, each under a name where there is one."""

    def __init__(self, fd: int, name: str = "", *, encoding: str = "utf-8") -> None:
        """Take where lines go, and the name of this process among others that write there."""
        super().__init__()
        self.named = name
        self.lines: _Fields = TextFormatter()
        self.output = LogOutput(fd, self._lost, encoding=encoding)

    def setFormatter(self, fmt: logging.Formatter | None) -> None:
        """Take how records are shown."""
        super().setFormatter(fmt)
        if isinstance(fmt, _Fields):
            self.lines = fmt

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record's line, and all that wait before it."""
        try:
            self.output.add(self._under_name(self.format(record)), at_once=True, is_error=record.levelno >= _ERROR)
        except Exception:
            self.handleError(record)

    def gather(self, level: int, name: str, message: str, fields: Mapping[str, Any]) -> None:
        """Write a line soon, together with others."""
        self.output.add(self._under_name(self._line(level, name, message, fields)), is_error=level >= _ERROR)

    def shows_all(self, level: int) -> bool:
        """Whether a line of this level is one of ours, whatever else was set on this handler."""
        return self.level <= level and not self.filters and self.formatter is self.lines

    def flush(self) -> None:
        """Wait until all is written, as long as it is read."""
        self.output.flush()

    def close(self) -> None:
        """Write what waits; lines may still come."""
        self.output.close()
        super().close()

    def _line(self, level: int, name: str, message: str, fields: Mapping[str, Any]) -> str:
        now = time.time()
        second = int(now)
        stamp = self.lines.stamp(second, int((now - second) * 1000))
        return self.lines.line(stamp, logging.getLevelName(level), name, message, fields)

    def _lost(self, lines: int) -> str:
        return self._under_name(self._line(logging.WARNING, "aqueduct.log", "lines were lost", {"lines": lines}))

    def _under_name(self, line: str) -> str:
        return under_name(self.named, line) if self.named else line


def under_name(name: str, line: str) -> str:
    """Return the line, or each of several, as one of a process among others: `worker   | …`."""
    start = f"{name:<9}| "
    return start + line.replace("\n", "\n" + start)


_ERROR: Final = logging.ERROR
_ROOT: Final = logging.getLogger()


def write_line(log: logging.Logger, level: int, fields: Mapping[str, Any], message: str, *args: object) -> None:
    """Log a line as `log.log(level, message, *args, extra=fields)` does, for a fraction of what that costs.

    Its place in the log is the same, but the process may go on for some milliseconds before it is written.
    """
    if not log.isEnabledFor(level):
        return
    handler = _only_handler(log, level)
    if handler is not None:
        handler.gather(level, log.name, message % args if args else message, fields)
    else:
        log.log(level, message, *args, extra=fields, stacklevel=2)


def _only_handler(log: logging.Logger, level: int) -> LineHandler | None:
    """Return our handler if nothing but that would see a record of this logger: no filter, factory or handler else."""
    handlers = _ROOT.handlers
    if len(handlers) != 1 or type(handler := handlers[0]) is not LineHandler or not handler.shows_all(level):
        return None
    if log.filters or logging.getLogRecordFactory() is not logging.LogRecord:
        return None
    if type(log).callHandlers.__module__ != logging.__name__:  # tools that watch errors put something in its place
        return None
    above: logging.Logger | None = log
    while above is not None and above is not _ROOT:
        if above.handlers or not above.propagate:
            return None
        above = above.parent
    return handler


def log_under_name(fd: int, name: str) -> None:
    """Have all lines of this process written there, under its name; call it before `configure_logging`."""
    _ROOT.handlers[:] = [LineHandler(fd, name)]


def _handler() -> logging.Handler:
    """Return the handler of this process, the present one if it will do: lines may wait in it."""
    try:
        fd = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # none, or no file
        return logging.StreamHandler(sys.stderr)
    for handler in _ROOT.handlers:
        if isinstance(handler, LineHandler) and (handler.named or handler.output.fd == fd):
            return handler
    return LineHandler(fd, encoding=sys.stderr.encoding)


def configure_logging(log_format: Literal["text", "json"], level: str) -> None:
    """Send every record of this process to standard error in one format."""
    handler = _handler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    _ROOT.handlers[:] = [handler]
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
