"""What can happen to a job, as bytes: the events of its log, and the frames in which they travel to the API.

An event is one kind byte and data:
    S  started    `queue_ms`, decimal; first event of a stream
    C  chunks     one or more whole SSE events, as the client gets them
    P  part       the beginning of a large plain body, as it goes on
    A  attempts   `calls place`, decimal: how many backend calls it took, and which backend answered; only where it was
                  more than one, and for logs only
    D  completed  `queue_ms run_ms prompt_tokens completion_tokens` (decimal, -1 unknown), a line feed, the plain body
    E  failed     an error as `AqueductError.to_wire` writes it, with `ran` where a worker had the job
A frame is the job id (32 hex digits), the nonce of the attempt that says it (12 hex digits, or as many dashes), the
event's number and its length (4 bytes each, big-endian), and the event; length 0xFFFFFFFF says that the event is large
and stands in the log alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import orjson

from shared.errors import AqueductError
from shared.protocol import LOG_ONLY, NONCE_BYTES

STARTED, CHUNKS, PART, ATTEMPTS, COMPLETED, FAILED = b"SCPADE"
ENDINGS = (COMPLETED, FAILED)
PART_BYTES = 512 * 1024
"""Of a plain body in one event."""
_FRAME = struct.Struct(f">32s{NONCE_BYTES}sII")


@dataclass(frozen=True, slots=True)
class Completed:
    """A finished job: times in ms, tokens (-1 unknown), and the body of a plain answer."""

    queue_ms: int
    run_ms: int
    prompt_tokens: int
    completion_tokens: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How far a job came before it failed; for logs, nobody decides by it."""

    queue_ms: int
    run_ms: int
    attempts: int
    """Backend calls, those of workers that were lost included."""
    backend: int | None
    """The place in the model's list of the backend called last."""


def started(queue_ms: int) -> bytes:
    """Return the event that opens a stream."""
    return b"S%d" % queue_ms


def chunks(data: bytes) -> bytes:
    """Return an event of whole SSE events."""
    return b"C" + data


def parts(body: bytes) -> tuple[list[bytes], bytes]:
    """Return the events of a plain body's beginning, and its rest, which the last event carries.

    In parts, as a whole one of megabytes would hold up everything else on the connections to Redis.
    """
    cut = range(0, max(0, len(body) - PART_BYTES), PART_BYTES)
    return [b"P" + body[at : at + PART_BYTES] for at in cut], body[len(cut) * PART_BYTES :]


def completed(done: Completed) -> bytes:
    """Return the event that ends a job well."""
    return b"D%d %d %d %d\n%b" % (done.queue_ms, done.run_ms, done.prompt_tokens, done.completion_tokens, done.body)


def read_completed(event: bytes) -> Completed:
    """Read what `completed` wrote."""
    end = event.index(b"\n")
    queue_ms, run_ms, prompt, completion = map(int, event[1:end].split())
    return Completed(queue_ms, run_ms, prompt, completion, event[end + 1 :])


def attempts(calls: int, place: int) -> bytes:
    """Return the event that tells of several backend calls."""
    return b"A%d %d" % (calls, place)


def read_attempts(event: bytes) -> tuple[int, int]:
    """Read what `attempts` wrote."""
    calls, place = event[1:].split()
    return int(calls), int(place)


def failed(error: AqueductError, ran: Ran | None = None) -> bytes:
    """Return the event that ends a job with an error."""
    return b"E" + (error.to_wire() if ran is None else error.to_wire(ran=asdict(ran)))


def read_ran(event: bytes) -> Ran | None:
    """Return how far a failed job came; None where no worker had it, or an older one did not say."""
    told = orjson.loads(event[1:]).get("ran")
    if told is None:
        return None
    return Ran(queue_ms=told["queue_ms"], run_ms=told["run_ms"], attempts=told["attempts"], backend=told["backend"])


def frames(message: bytes) -> Iterator[tuple[bytes, bytes, int, bytes | None]]:
    """Yield (job id, nonce, number, event) of each frame in a message; the event is None when only the log has it."""
    at, end, size = 0, len(message), _FRAME.size
    while at < end:
        job_id, nonce, number, length = _FRAME.unpack_from(message, at)
        at += size
        if length == LOG_ONLY:
            yield job_id, nonce, number, None
        else:
            yield job_id, nonce, number, message[at : at + length]
            at += length
