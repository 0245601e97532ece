"""A batch's record: OpenAI's batch object and what else we must know of it; loaded, moved on and saved.

Until a feeder has the batch's lease the API writes it, once; afterwards only the holder of the lease does.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import orjson

from shared.batches import keys

if TYPE_CHECKING:
    from shared.store import Store


class Status(StrEnum):
    """OpenAI's eight words."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


MOVES: Final[dict[Status, frozenset[Status]]] = {
    Status.VALIDATING: frozenset({Status.IN_PROGRESS, Status.FAILED, Status.CANCELLING}),
    Status.IN_PROGRESS: frozenset({Status.FINALIZING, Status.EXPIRED, Status.CANCELLING}),
    Status.FINALIZING: frozenset({Status.COMPLETED, Status.EXPIRED, Status.CANCELLING}),
    Status.CANCELLING: frozenset({Status.CANCELLED}),
    Status.FAILED: frozenset(),
    Status.COMPLETED: frozenset(),
    Status.EXPIRED: frozenset(),
    Status.CANCELLED: frozenset(),
}
ENDED: Final = frozenset(status for status, moves in MOVES.items() if not moves)


class ForbiddenMove(Exception):
    """A batch cannot get from one status to the other."""


@dataclass(frozen=True, slots=True)
class Counts:
    """OpenAI's `request_counts`."""

    total: int = 0
    completed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of a line, or of all: what the backends counted."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.total_tokens + other.total_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    def public(self) -> dict[str, Any]:
        """Return it as OpenAI's batch object has it."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.total_tokens,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRecord:
    """Everything of a batch but its lines and results; frozen, so that a change is always made to be saved."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    token: str
    """The name of the token that made it."""
    is_configured: bool | None = None
    """Whether that token stood in the configuration; None where it is not known."""
    status: Status = Status.VALIDATING
    model: str | None = None
    """As the first line names it."""
    errors: tuple[dict[str, Any], ...] = ()
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    counts: Counts = field(default_factory=Counts)
    usage: TokenUsage | None = None
    reasons: dict[str, int] | None = None
    """How many lines failed with which code, once it has ended; None where it was run by an older version."""
    metadata: dict[str, str] | None = None
    output_expires_seconds: int | None = None
    """How long the output and error files are kept; None: as the operator's default says."""
    retry_of: str | None = None
    """The batch whose unfinished lines this one runs again."""
    created_us: int = 0
    """Its creation in microseconds: what the ids of its jobs begin with."""
    request_hash: str | None = None
    """Of the request that made it, where that had an Idempotency-Key."""
    files_seed: str = ""
    """What nobody can guess of the ids of its files, so that files made again take the place of the first ones."""
    files_us: int = 0
    """The time that its files bear, in microseconds."""
    trace: str | None = None
    """The context of the span that the request for it had, where that was traced."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ENDED

    def file_id(self, name: str) -> str:
        """Return the id of its file of this name."""
        return f"file-{hashlib.sha256(f'{self.files_seed} {name}'.encode()).hexdigest()[:32]}"

    def to_json(self) -> bytes:
        """Return the record as one line of JSON."""
        told = asdict(self)
        if self.trace is None:
            del told["trace"]
        return orjson.dumps(told)

    @classmethod
    def from_json(cls, data: bytes) -> BatchRecord:
        """Read what `to_json` wrote, here or in another version; unknown members are left out."""
        given = orjson.loads(data)
        known = {one.name for one in fields(cls)}
        values = {name: value for name, value in given.items() if name in known}
        usage = values.get("usage")
        return cls(
            **{
                **values,
                "status": Status(values["status"]),
                "errors": tuple(values.get("errors", ())),
                "counts": Counts(**values.get("counts", {})),
                "usage": TokenUsage(**usage) if usage is not None else None,
            }
        )


_STAMPS = frozenset(one.name for one in fields(BatchRecord) if one.name.endswith("_at"))


def moved(record: BatchRecord, status: Status, now: float) -> BatchRecord:
    """Return the record in its new status, with the time of it; raises ForbiddenMove."""
    if status not in MOVES[record.status]:
        raise ForbiddenMove(f"a batch does not get from {record.status} to {status}")
    stamp = f"{status}_at"
    stamps: dict[str, Any] = {stamp: int(now)} if stamp in _STAMPS else {}
    return replace(record, status=status, **stamps)


def seeded(record: BatchRecord, now_us: int) -> BatchRecord:
    """Return the record with what the ids of its files are made of; saved before the files are made."""
    return record if record.files_seed else replace(record, files_seed=secrets.token_hex(16), files_us=now_us)


async def load(store: Store, tenant: str, batch_id: str) -> BatchRecord | None:
    """Return a tenant's batch, or None where there is none of that id."""
    if keys.BATCH_ID.fullmatch(batch_id) is None:
        return None
    data = await store.get(keys.record(tenant, batch_id))
    return BatchRecord.from_json(data) if data is not None else None


async def save(store: Store, tenant: str, record: BatchRecord) -> None:
    """Write the record, whole or not at all."""
    await store.put(keys.record(tenant, record.id), record.to_json())


async def ask_cancel(store: Store, tenant: str, batch_id: str, now: float) -> int:
    """Leave word that the batch is to be cancelled; returns since when it is."""
    since = await cancel_asked(store, tenant, batch_id)
    if since is None:
        since = int(now)
        await store.put(keys.cancel(tenant, batch_id), b"%d" % since)
    return since


async def cancel_asked(store: Store, tenant: str, batch_id: str) -> int | None:
    """Return since when the batch is to be cancelled, or None."""
    data = await store.get(keys.cancel(tenant, batch_id))
    if data is None:
        return None
    return int(data) if data.isdigit() else 0


def public(record: BatchRecord, *, live: Counts | None = None, cancel_since: int | None = None) -> dict[str, Any]:
    """Return OpenAI's batch object, every member of it, null where not set.

    `live` are newer counts than the record's. A batch that is to be cancelled is shown as cancelling at once.
    """
    if cancel_since is not None and Status.CANCELLING in MOVES[record.status]:
        record = moved(record, Status.CANCELLING, cancel_since)
    counts = live if live is not None and not record.has_ended else record.counts
    return {
        "id": record.id,
        "object": "batch",
        "endpoint": record.endpoint,
        "model": record.model,
        "errors": {"object": "list", "data": list(record.errors)} if record.errors else None,
        "input_file_id": record.input_file_id,
        "completion_window": record.completion_window,
        "status": record.status.value,
        "output_file_id": record.output_file_id,
        "error_file_id": record.error_file_id,
        "created_at": record.created_at,
        "in_progress_at": record.in_progress_at,
        "expires_at": record.expires_at,
        "finalizing_at": record.finalizing_at,
        "completed_at": record.completed_at,
        "failed_at": record.failed_at,
        "expired_at": record.expired_at,
        "cancelling_at": record.cancelling_at,
        "cancelled_at": record.cancelled_at,
        "request_counts": asdict(counts),
        "usage": record.usage.public() if record.usage is not None else None,
        "metadata": record.metadata,
    }
