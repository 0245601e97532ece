"""A batch's input, line by line: bytes in, checked lines or the faults of the file out; never the whole in memory.

A fault stops the whole batch before anything runs. What a line asks of the model is not judged here: that a good line
holds a bad parameter is told in its own result.
"""

from __future__ import annotations

import asyncio
import codecs
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import jiter

from shared.infinity import holds_infinity

MAX_FAULTS: Final = 100
MAX_LINE_BYTES: Final = 48 * 1024 * 1024
"""As the largest body of a single request."""
MAX_CUSTOM_ID: Final = 512
BREATH_BYTES: Final = 256 * 1024
"""After so many the event loop gets its turn."""

_JSON_TYPES: Final = {
    type(None): "null", bool: "a boolean", int: "an integer", float: "a decimal", str: "a string", list: "an array",
    dict: "an object",
}  # fmt: skip

OwnName = Callable[[str], str | None]
"""A model's own name for a name or alias, or None where there is none that the token may use."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with the file; the line counts from 1, and None stands for the file as a whole."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None

    def public(self) -> dict[str, Any]:
        """Return it as OpenAI's batch object has it."""
        return {"code": self.code, "message": self.message, "param": self.param, "line": self.line}


@dataclass(frozen=True, slots=True)
class CheckedLine:
    """A line that may run."""

    number: int
    custom_id: str
    body: dict[str, Any]
    model: str
    """As the line names it."""


@dataclass(slots=True)
class CheckedInput:
    """What the whole file is."""

    count: int = 0
    model: str | None = None
    """As the first line names it."""
    faults: list[Fault] = field(default_factory=list)


async def read_lines(stream: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes]]:
    """Yield each line that is not blank with its number, the first being 1; without its end.

    Of a line longer than `MAX_LINE_BYTES` only its beginning, one byte more than that.
    """
    number, since_breath = 0, 0
    pending: list[bytes] = []
    held = 0
    async for part in stream:
        since_breath += len(part)
        *ended, rest = part.split(b"\n")
        for piece in ended:
            number += 1
            line = b"".join([*pending, piece]) if pending else piece
            pending, held = [], 0
            if line := _tidy(line, number):
                yield number, line
        if rest and held <= MAX_LINE_BYTES:
            pending.append(rest)
            held += len(rest)
        if since_breath >= BREATH_BYTES:
            since_breath = 0
            await asyncio.sleep(0)
    if line := _tidy(b"".join(pending), number + 1):
        yield number + 1, line


def _tidy(line: bytes, number: int) -> bytes:
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    return line.strip(b" \t\r")[: MAX_LINE_BYTES + 1]


def fingerprint(custom_id: str) -> bytes:
    """Return 16 bytes that stand for a custom_id, however long, where 50,000 of them are remembered."""
    return hashlib.blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class InputCheck:
    """Checks the lines of one file in their order: `add` each, then `result`; or `run` over all."""

    def __init__(self, endpoint: str, own_name: OwnName, *, max_lines: int) -> None:
        self._endpoint = endpoint
        self._own_name = own_name
        self._max_lines = max_lines
        self._seen: dict[bytes, int] = {}
        """Custom ids, each with its first line."""
        self._model: str | None = None
        """The first line's, by its own name."""
        self._found = CheckedInput()

    @property
    def is_over(self) -> bool:
        """Whether further lines would change nothing."""
        return len(self._found.faults) >= MAX_FAULTS or self._found.count > self._max_lines

    def add(self, number: int, raw: bytes) -> CheckedLine | list[Fault]:
        """Check one line; returns it, or what is wrong with it."""
        self._found.count += 1
        if self._found.count > self._max_lines:
            message = f"The file holds more than {self._max_lines} requests. Divide it into several batches."
            faults = [Fault("too_many_tasks", message, None, number)]
            self._found.faults.append(faults[0])
            return faults
        line = check_line(number, raw, self._endpoint, self._seen)
        faults = line if isinstance(line, list) else []
        if isinstance(line, CheckedLine) and (fault := self._wrong_model(line)) is not None:
            faults = [fault]
        self._found.faults.extend(faults[: MAX_FAULTS - len(self._found.faults)])
        return faults or line

    def result(self) -> CheckedInput:
        """Return what was found, once all lines were added."""
        if not self._found.count and not self._found.faults:
            self._found.faults.append(Fault("empty_file", "The file holds no request. Send a line for each."))
        return self._found

    async def run(self, stream: AsyncIterator[bytes]) -> CheckedInput:
        """Check a whole file as it comes; of a hopeless one no more than is needed."""
        async for number, raw in read_lines(stream):
            self.add(number, raw)
            if self.is_over:
                break
        return self.result()

    def _wrong_model(self, line: CheckedLine) -> Fault | None:
        own = self._own_name(line.model)
        if own is None:
            shown = line.model if len(line.model) <= 128 else line.model[:128] + "…"
            message = f"The model `{shown}` does not exist or you do not have access to it."
            return Fault("model_not_found", message, "body.model", line.number)
        if self._model is None:
            self._model, self._found.model = own, line.model
        if own != self._model:
            message = f"All lines of a file name one model: the first was `{self._found.model}`."
            return Fault("model_mismatch", message, "body.model", line.number)
        return None


def check_line(number: int, raw: bytes, endpoint: str, seen: dict[bytes, int]) -> CheckedLine | list[Fault]:
    """Return the line, or everything that is wrong with it; its custom_id is put into `seen`."""
    if len(raw) > MAX_LINE_BYTES:
        return [Fault("invalid_value", f"The line is longer than {MAX_LINE_BYTES} bytes.", None, number)]
    try:
        line = jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError:
        return [Fault("invalid_json_line", "This line is not valid JSON.", None, number)]
    if type(line) is not dict or holds_infinity(line):
        return [Fault("invalid_json_line", "This line is not a JSON object of usual numbers.", None, number)]
    faults = [
        fault
        for fault in (
            _custom_id_fault(number, line, seen),
            _method_fault(number, line),
            _url_fault(number, line, endpoint),
            *_body_faults(number, line),
        )
        if fault is not None
    ]
    return faults or CheckedLine(number, line["custom_id"], line["body"], line["body"]["model"])


def _custom_id_fault(number: int, line: dict[str, Any], seen: dict[bytes, int]) -> Fault | None:
    if fault := _wrong_type(number, line, "custom_id", str, "a string"):
        return fault
    custom_id: str = line["custom_id"]
    if not 0 < len(custom_id) <= MAX_CUSTOM_ID:
        message = f"A 'custom_id' has 1 to {MAX_CUSTOM_ID} characters; this one has {len(custom_id)}."
        return Fault("invalid_value", message, "custom_id", number)
    first = seen.setdefault(fingerprint(custom_id), number)
    if first != number:
        shown = custom_id if len(custom_id) <= 64 else custom_id[:64] + "…"
        message = f"The custom_id '{shown}' stands in line {first} too. Give each line its own."
        return Fault("duplicate_custom_id", message, "custom_id", number)
    return None


def _method_fault(number: int, line: dict[str, Any]) -> Fault | None:
    if fault := _wrong_type(number, line, "method", str, "a string"):
        return fault
    if line["method"] != "POST":
        return Fault("invalid_method", "The 'method' of a line must be 'POST'.", "method", number)
    return None


def _url_fault(number: int, line: dict[str, Any], endpoint: str) -> Fault | None:
    if fault := _wrong_type(number, line, "url", str, "a string"):
        return fault
    if line["url"] != endpoint:
        return Fault("url_mismatch", f"The 'url' of a line must be the batch's endpoint, '{endpoint}'.", "url", number)
    return None


def _body_faults(number: int, line: dict[str, Any]) -> list[Fault]:
    if fault := _wrong_type(number, line, "body", dict, "an object"):
        return [fault]
    body: dict[str, Any] = line["body"]
    faults = []
    if fault := _wrong_type(number, body, "model", str, "a string", "body."):
        faults.append(fault)
    if body.get("stream") not in (None, False):
        message = "Lines of a batch are not streamed: leave 'stream' out."
        faults.append(Fault("invalid_value", message, "body.stream", number))
    return faults


def _wrong_type(
    number: int, holder: dict[str, Any], name: str, wanted: type, words: str, path: str = ""
) -> Fault | None:
    """Return what is wrong with a required member: that it is missing, or no such thing."""
    param = path + name
    if name not in holder:
        return Fault("missing_required_parameter", f"Missing required parameter: '{param}'.", param, number)
    value = holder[name]
    if type(value) is not wanted:
        message = f"Invalid type for '{param}': expected {words}, but got {_JSON_TYPES[type(value)]} instead."
        return Fault("invalid_type", message, param, number)
    return None
