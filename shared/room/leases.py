"""What a worker process says of its jobs: taken, renewed, their events appended, given up."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from shared import keys
from shared.broker import ticket
from shared.catalogue import Catalogue
from shared.jobs import JobSpec, TakenJob
from shared.protocol import NONCE_BYTES, process_name
from shared.redis import Argument, RedisClient, RedisRefused, RedisUnavailable
from shared.redis.bulk import Bulk
from shared.room.scripts import (
    APPEND,
    LEAVE,
    MAKE_ROOM,
    RELEASE,
    RENEW,
    TAKE,
    AppendRow,
    HeldRow,
    LeaveArguments,
    MakeRoomArguments,
    ModelRow,
    ReleaseArguments,
    ReleaseRow,
    RenewArguments,
    TakeArguments,
)
from shared.room.wires import TIMEOUT_WIRE, UNREADABLE_WIRE
from shared.scripting import Scripts, flag


class Why(StrEnum):
    """Why a job is not run on here."""

    CANCELLED = "cancelled"
    """Its client has left, or its API process is gone."""
    STALE = "stale"
    """Another attempt of it runs, or it waits again: this one's lease had run out."""
    UNKNOWN = "unknown"
    """Redis has no such job."""
    GAP = "gap"
    """Redis has lost events of it that were stored: it fell back by a moment."""
    BROKEN = "broken"
    """Redis cannot take its events."""
    UNFETCHED = "unfetched"
    """Its body could not be fetched in time."""
    ABSENT = "absent"
    """No backend of its model is there: it waits again until one is."""
    HANDED_OVER = "handed over"
    """It waits again, for another worker."""
    CUT_OFF = "cut off"
    """The grace of a shutdown was over."""
    OPERATOR = "ended by an operator"


REFUSALS: Final = {ord(letter): why for letter, why in zip("csugx", Why, strict=False)} | {ord("e"): Why.OPERATOR}
"""What the letters of `append.lua` mean for a job, but for `o` and `w`: those are stored."""
STORED, STORED_OTHERS_WAIT = b"ow"
_RENEWAL = {b"c": Why.CANCELLED, b"e": Why.OPERATOR, b"o": Why.CANCELLED, b"s": Why.STALE, b"u": Why.UNKNOWN}


MARK_DIGITS: Final = 6
"""Of an attempt's nonce that say which worker it is of."""


def mark_of(worker: str) -> str:
    """Return what the nonces of a worker's attempts begin with, by which operators are told who runs a job."""
    return hashlib.blake2b(worker.encode(), digest_size=MARK_DIGITS // 2).hexdigest()


class How(StrEnum):
    """What is to become of a job that a worker gives up."""

    END = "end"
    """It was cancelled: nothing of it stays."""
    AWAY = "away"
    """It waits again where it stood, if another worker lives that can take it."""
    HOLD = "hold"
    """It waits again where it stood, as long as it would have, uncounted."""
    AGAIN = "again"
    """It waits again where it stood; after its last try it fails."""
    FAIL = "fail"
    """It ends with an error."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one take brought."""

    jobs: Sequence[TakenJob]
    more: bool
    """Jobs are left for slots that are free."""
    crowded: bool = False
    """No slot is free, and somebody waits behind batch work that makes room."""
    held: bool = False
    """Nothing is taken: the model is being started."""
    off: str | None = None
    """Operators hold these backends, and not those that were told: nothing was taken."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a worker hears when it renews its leases."""

    lost: Sequence[tuple[str, bytes, Why]]
    """Jobs to give up: id, attempt, and why."""
    waiting: Sequence[str]
    """Models for which jobs wait."""
    lying: Sequence[str]
    """Models on whose queues tickets lie."""


class Leases:
    """One worker process's side of the waiting rooms."""

    def __init__(self, client: RedisClient, bulk: Bulk, catalogue: Catalogue, worker: str) -> None:
        self._scripts = Scripts(client)
        self._bulk = bulk
        self._catalogue = catalogue
        self._worker = worker
        self._mark = mark_of(worker)
        self._lease_ms = round(catalogue.settings.testing.lease_seconds * 1000)

    async def take(
        self,
        model_name: str,
        *,
        free: int,
        mine: int,
        surplus: bool,
        concurrency: int | None = None,
        awake_ms: int = 0,
        bulk_bytes: int = 64 * 1024 * 1024,
        off: str = "",
    ) -> Taken:
        """Move waiting jobs into the running set; returns them, and whether more could be taken for free slots.

        `mine` is how many this worker already runs; without `surplus` it takes no more than its fair part.
        `concurrency` lowers the model's own limit, as when one of its backends is ejected. With `awake_ms` the caller
        promises to take again within that time, so that no tickets need be pushed. Once the jobs' own bodies exceed
        `bulk_bytes` no more are taken. `off` are the backends that the caller knows to be held.
        Raises RedisUnavailable or RedisRefused.
        """
        model, lanes = self._catalogue.models[model_name], self._catalogue.settings.lanes
        places = concurrency or model.places
        reply = await self._scripts.run(
            TAKE,
            TakeArguments(
                model=model_name,
                nonce=self._mark + os.urandom((NONCE_BYTES - MARK_DIGITS) // 2).hex(),
                free_slots=free,
                mine=mine,
                surplus=flag(surplus),
                concurrency=model.asked(places),
                batch_reserve=model.kept_from_batch(places, time.time()),
                lease_ms=self._lease_ms,
                timeout_wire=TIMEOUT_WIRE,
                weight_priority=lanes.priority,
                weight_default=lanes.default,
                weight_flex=lanes.flex,
                weight_batch=lanes.batch,
                awake_ms=awake_ms,
                bulk_bytes=bulk_bytes,
                queue=keys.queue(model_name),
                ticket=ticket(model_name),
                people_first=flag(model.preempt_batch_after_ms),
                off=off,
            ),
        )
        if type(reply[1]) is bytes:
            return Taken((), more=False, off=reply[1].decode())
        jobs: list[TakenJob] = []
        unreadable: list[ReleaseRow] = []
        for at in range(2, len(reply), 6):
            try:  # each by itself: one that cannot be read harms no other
                jobs.append(_taken(model_name, reply[0], *reply[at : at + 6]))
            except (ValueError, TypeError):
                unreadable.append(ReleaseRow(reply[at].decode(), reply[at + 1], How.FAIL, UNREADABLE_WIRE))
        if unreadable:
            await self._tell(model_name, unreadable)
        return Taken(jobs, more=reply[1] == 1, crowded=reply[1] == 2, held=reply[1] == 3)

    async def make_room(self, model_name: str, patience_ms: int, concurrency: int) -> float | None:
        """Hand batch work back for who has waited so long; returns the seconds after which to look again, if any.

        Raises RedisUnavailable or RedisRefused.
        """
        places = self._catalogue.models[model_name].asked(concurrency)
        arguments = MakeRoomArguments(model_name, places, patience_ms, keys.queue(model_name), ticket(model_name))
        again_ms = await self._scripts.run(MAKE_ROOM, arguments)
        return None if again_ms < 0 else again_ms / 1000

    async def _tell(self, model: str, rows: Sequence[ReleaseRow]) -> None:
        """Release without an answer being needed: what is not told is reclaimed and told after its last try."""
        try:
            await self._scripts.run(RELEASE, ReleaseArguments(self._worker, keys.queue(model), ticket(model)), rows)
        except (RedisUnavailable, RedisRefused):
            return

    async def fetch(self, job_id: str) -> bytes | None:
        """Return a job's large body, or None when Redis has it no more; raises RedisUnavailable or RedisRefused."""
        return await self._bulk.fetch(keys.body(job_id))

    async def append(self, parts: Iterable[Argument]) -> bytes:
        """Store events of many jobs; `parts` as `append_parts` lays them out, returns one letter a job."""
        return await self._scripts.run_flat(APPEND, [*parts])

    async def release(self, model: str, jobs: Iterable[tuple[str, bytes, How, bytes, bytes]]) -> bytes:
        """Give up running jobs: (id, attempt, how, error's wire or nothing, its end or nothing); one letter a job."""
        arguments = ReleaseArguments(self._worker, keys.queue(model), ticket(model))
        return await self._scripts.run(RELEASE, arguments, (ReleaseRow(*job) for job in jobs))

    async def renew(self, models: Sequence[str], jobs: Iterable[tuple[str, bytes]]) -> Renewal:
        """Renew a process's leases and its presence among the live workers of its models."""
        arguments = RenewArguments(self._worker, process_name(self._worker), self._lease_ms, "\n".join(models))
        reply = await self._scripts.run(RENEW, arguments, (HeldRow(*job) for job in jobs))
        lost = [(reply[i].decode(), reply[i + 1], _RENEWAL[reply[i + 2]]) for i in range(1, len(reply), 3)]
        told = dict(zip(models, reply[0].decode(), strict=True))
        return Renewal(
            lost,
            waiting=[model for model, digit in told.items() if digit in "13"],
            lying=[model for model, digit in told.items() if digit in "23"],
        )

    async def leave(self, models: Sequence[str]) -> None:
        """Say that this worker takes no more jobs of these models."""
        await self._scripts.run(LEAVE, LeaveArguments(self._worker, process_name(self._worker)), map(ModelRow, models))


def _taken(
    model: str,
    now: int,
    job_id: bytes,
    attempt: bytes,
    admitted: bytes | None,
    size: int,
    spec: bytes,
    body: bytes | None,
) -> TakenJob:
    """Return a job as `take` tells of it; raises ValueError when it cannot be read."""
    return TakenJob(
        id=job_id.decode(),
        model=model,
        attempt=attempt,
        spec=JobSpec.from_json(spec),
        body=body,
        queue_ms=max(0, now - int(admitted or now)),
        size=size,
    )


def append_parts(row: AppendRow) -> list[Argument]:
    """Return a row as `append` takes it, with the number of its payloads in front of them."""
    return [*row[:-1], len(row.payloads), *row.payloads]
