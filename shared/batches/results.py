"""How a batch's lines ended: one record a line, kept in numbered segments, joined into two files at the end.

A segment's line is our own head and, as its last member, OpenAI's output line as the files hold it. A segment is
written whole or not at all, and a line may stand in several (two feeders took themselves for the only one): the first
record of a custom_id counts, everywhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import orjson

from shared.batches import keys
from shared.batches.lines import fingerprint
from shared.batches.record import Counts, TokenUsage
from shared.errors import AqueductError
from shared.jobs import Usage, request_id

if TYPE_CHECKING:
    from shared.store import Store

NotRun = Literal["batch_expired", "batch_cancelled", "request_timeout"]
_MESSAGES: Final[dict[NotRun, str]] = {
    "batch_expired": "This request could not be executed before the completion window expired.",
    "batch_cancelled": "This request was not executed: the batch was cancelled.",
    "request_timeout": "This request took too long and was given up.",
}
_RECORD: Final = b',"record":'
"""What divides head and record. Inside of a JSON text its quotes would have backslashes before them."""
PART_BYTES: Final = 1024 * 1024
MAX_REASONS: Final = 30
"""Of one batch that are counted apart: backends may give any codes."""
MAX_REASON: Final = 64
OTHER_REASONS: Final = "other"


@dataclass(frozen=True, slots=True)
class Result:
    """One finished line, as a segment holds it."""

    line: int
    custom_id: str
    ok: bool
    record: bytes
    """OpenAI's output line, without a line end."""
    usage: TokenUsage | None = None

    def to_line(self) -> bytes:
        """Return it as a segment's line, its end included."""
        usage = asdict(self.usage) if self.usage is not None else None
        head = {"line": self.line, "custom_id": self.custom_id, "ok": self.ok, "usage": usage}
        return orjson.dumps(head)[:-1] + _RECORD + self.record + b"}\n"


def answered(line: int, custom_id: str, job_id: str, body: bytes, usage: Usage | None) -> Result:
    """Return the result of a line whose call was answered with 200 and this JSON body."""
    counted = None
    if usage is not None:
        counted = TokenUsage(
            usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, usage.cached_tokens, _reasoning(body)
        )
    return Result(line, custom_id, True, _record(custom_id, job_id, 200, body, None), counted)


def refused(line: int, custom_id: str, job_id: str, error: AqueductError) -> Result:
    """Return the result of a line whose call was answered with an error."""
    return Result(line, custom_id, False, _record(custom_id, job_id, error.status, error.json(), None))


def not_run(line: int, custom_id: str, job_id: str, code: NotRun) -> Result:
    """Return the result of a line that has no answer at all."""
    error = {"code": code, "message": _MESSAGES[code]}
    return Result(line, custom_id, False, _record(custom_id, job_id, 0, b"", error))


def _record(custom_id: str, job_id: str, status: int, body: bytes, error: dict[str, str] | None) -> bytes:
    response = None
    if error is None:
        one_line = body.replace(b"\n", b" ").replace(b"\r", b" ")  # JSON text has raw line ends only between values
        response = {"status_code": status, "request_id": request_id(job_id), "body": orjson.Fragment(one_line)}
    return orjson.dumps({"id": f"batch_req_{job_id}", "custom_id": custom_id, "response": response, "error": error})


def reason_of(record: bytes) -> str:
    """Return the code of a failed line's error: its own, or that of the answer; its status where that has none."""
    try:
        told = orjson.loads(record)
        error = told["error"] or told["response"]["body"]["error"]
        code = error["code"] or f"status {told['response']['status_code']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return OTHER_REASONS
    return str(code)[:MAX_REASON]


def _reasoning(body: bytes) -> int:
    """Return the reasoning tokens of an answer; only few answers say any."""
    if b'"reasoning_tokens"' not in body:
        return 0
    try:
        count = orjson.loads(body)["usage"]["completion_tokens_details"]["reasoning_tokens"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return 0
    return count if type(count) is int else 0


def read_segment(data: bytes) -> Iterator[Result]:
    """Yield the results of a segment; the records stay as they are, unparsed."""
    for text in data.split(b"\n"):
        if not text:
            continue
        head, _, rest = text.partition(_RECORD)
        given: dict[str, Any] = orjson.loads(head + b"}")
        usage = given["usage"]
        yield Result(
            given["line"],
            given["custom_id"],
            given["ok"],
            rest[:-1],
            TokenUsage(**usage) if usage is not None else None,
        )


async def results(store: Store, tenant: str, batch_id: str) -> AsyncIterator[Result]:
    """Yield each line's result that the segments hold, in the order of their ends, each custom_id once."""
    async for result in _read(store, await store.list(keys.segments(tenant, batch_id))):
        yield result


async def _read(store: Store, listed: list[str]) -> AsyncIterator[Result]:
    seen: set[bytes] = set()
    for key in listed:
        for result in read_segment(await store.get(key) or b""):
            mark = fingerprint(result.custom_id)
            if mark not in seen:
                seen.add(mark)
                yield result


async def records(store: Store, tenant: str, batch_id: str, *, ok: bool) -> AsyncIterator[bytes]:
    """Yield OpenAI's output lines of the good (`ok`) or the failed ones, in parts of whole lines."""
    async for part in _parts(one async for one in results(store, tenant, batch_id) if one.ok is ok):
        yield part


async def records_after(store: Store, tenant: str, batch_id: str, after: int) -> AsyncIterator[bytes]:
    """Yield OpenAI's output lines but the first `after` ones, in parts of whole lines.

    Segments that hold none of them are not read.
    """
    listed, left_out = keys.behind(await store.list(keys.segments(tenant, batch_id)), after)

    async def wanted() -> AsyncIterator[Result]:
        number = 0
        async for result in _read(store, listed):
            number += 1
            if number > left_out:
                yield result

    async for part in _parts(wanted()):
        yield part


async def _parts(wanted: AsyncIterator[Result]) -> AsyncIterator[bytes]:
    part: list[bytes] = []
    size = 0
    async for result in wanted:
        part += result.record, b"\n"
        size += len(result.record) + 1
        if size >= PART_BYTES:
            yield b"".join(part)
            part, size = [], 0
    if part:
        yield b"".join(part)


@dataclass(slots=True)
class Tally:
    """What the segments say: how a feeder that takes a batch over knows what is left."""

    lines: set[int] = field(default_factory=set)
    """Numbers of the lines that have ended."""
    completed: int = 0
    failed: int = 0
    usage: TokenUsage = field(default_factory=TokenUsage)
    reasons: dict[str, int] = field(default_factory=dict)
    """How many lines failed with which code."""
    next_segment: int = 0

    def add(self, result: Result) -> bool:
        """Count a result; False for a line that is counted already."""
        if result.line in self.lines:
            return False
        self.lines.add(result.line)
        if result.ok:
            self.completed += 1
        else:
            self.failed += 1
            code = reason_of(result.record)
            code = code if code in self.reasons or len(self.reasons) < MAX_REASONS else OTHER_REASONS
            self.reasons[code] = self.reasons.get(code, 0) + 1
        if result.usage is not None:
            self.usage += result.usage
        return True

    def counts(self, total: int) -> Counts:
        """Return OpenAI's `request_counts`."""
        return Counts(total, self.completed, self.failed)


async def tally(store: Store, tenant: str, batch_id: str) -> Tally:
    """Read all segments of a batch."""
    found = Tally()
    listed = await store.list(keys.segments(tenant, batch_id))
    if listed:
        found.next_segment = keys.segment_number(listed[-1]) + 1
    async for result in results(store, tenant, batch_id):
        found.add(result)
    return found


@dataclass(frozen=True, slots=True)
class Joined:
    """The two files, None where one would be empty, and what they hold."""

    output_file_id: str | None
    error_file_id: str | None
    tally: Tally


CreateFile = Callable[[str, AsyncIterator[bytes]], Awaitable[str]]
"""Makes a file of a name and its parts; returns its id."""


async def join(store: Store, tenant: str, batch_id: str, create: CreateFile) -> Joined:
    """Make output and error file of the segments: each custom_id once, in one of the two, in the order of the ends."""
    found = await tally(store, tenant, batch_id)
    files: list[str | None] = []
    for name, ok, count in (("output", True, found.completed), ("error", False, found.failed)):
        parts = records(store, tenant, batch_id, ok=ok)
        files.append(await create(f"{batch_id}_{name}.jsonl", parts) if count else None)
    return Joined(files[0], files[1], found)
