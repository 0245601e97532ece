"""Answers that are stored, as long as they are in Redis: what has ended and waits for the file store, and who listens.

A job that is to be stored has the sink `stored`. The script that ends it lists it there, whichever process lives; its
record, with what was asked, and its log stay until somebody has written them to the store and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

import orjson

from shared import keys
from shared.jobs import JobSpec
from shared.protocol import KEEP_MS, STORED
from shared.redis import RedisClient
from shared.redis.bulk import Bulk
from shared.room.lease import LEASE_MS
from shared.room.scripts import (
    ACKNOWLEDGE,
    DROP,
    HEAR,
    HOLD,
    LET_GO,
    RESULTS,
    BatchArguments,
    DropRow,
    FeederArguments,
    HearArguments,
    IdRow,
    NoArguments,
    ResultsArguments,
)
from shared.scripting import Scripts

READ_BYTES: Final = 8 * 1024 * 1024


class Known(NamedTuple):
    """What Redis knows of a job whose answer is stored."""

    id: str
    tenant: str
    """Its token's name."""
    state: str
    spec: JobSpec
    body: bytes | None
    """What was asked; None where it is gone."""
    events: Sequence[bytes]


class Heard(NamedTuple):
    """A job whose events this process hears from now on, unless it has ended."""

    state: str
    spec: JobSpec


class StoredJobs:
    """One process's side of them. Every method raises RedisUnavailable or RedisRefused."""

    def __init__(self, client: RedisClient, bulk: Bulk, process: str) -> None:
        """Take the name of this process, under which it hears of its jobs."""
        self._client = client
        self._scripts = Scripts(client)
        self._bulk = bulk
        self._process = process

    async def hold(self) -> bool:
        """Take or renew the lease on the stored answers; False where another process has it."""
        return await self._scripts.run(HOLD, FeederArguments(STORED, self._process, LEASE_MS)) == 1

    async def let_go(self) -> None:
        """Give the lease back."""
        await self._scripts.run(LET_GO, FeederArguments(STORED, self._process, LEASE_MS))

    async def waiting(self) -> int:
        """Return how many answers have ended and wait for the store."""
        count: int = await self._client.call("LLEN", keys.results(STORED))
        return count

    async def ended(self, start: int, most: int) -> tuple[list[str], list[Known]]:
        """Return the ids from place `start` of the sink on, and what is known of those that are still there."""
        reply = await self._scripts.run(RESULTS, ResultsArguments(STORED, start, most, READ_BYTES))
        rows = [(job_id.decode(), events) for job_id, *events in reply]
        found = await asyncio.gather(*(self._known(job_id, events) for job_id, events in rows))
        return [job_id for job_id, _ in rows], [one for one in found if one is not None]

    async def look(self, job_id: str) -> Known | None:
        """Return what is known of one job; None where it is none whose answer is stored. Events only once it ended."""
        known = await self._known(job_id, ())
        if known is None or known.state != "ended":
            return known
        return known._replace(events=await self._client.call("LRANGE", keys.log(job_id), 0, -1))

    async def _known(self, job_id: str, events: Sequence[bytes]) -> Known | None:
        record = await self._client.call("HMGET", keys.job(job_id), "facts", "state", "spec", "body", "cancelled")
        facts, state, spec, body, cancelled = record
        if facts is None or cancelled == b"1":
            return None
        told = orjson.loads(facts)
        if told.get("sink") != STORED:
            return None
        if told.get("apart") and state == b"ended":
            body = await self._bulk.fetch(keys.body(job_id))
        return Known(
            job_id, told["tenant"], (state or b"").decode(), JobSpec.from_json(spec or b"{}"), body or None, events
        )

    async def acknowledge(self, job_ids: Sequence[str]) -> None:
        """Take from the sink what the store has now; readers may be at it for a minute more."""
        await self._scripts.run(ACKNOWLEDGE, BatchArguments(STORED, KEEP_MS), map(IdRow, job_ids))

    async def hear(self, job_id: str, tenant: str) -> Heard | None:
        """Hear a job's events from now on, until `cancel`; None where the tenant has no such job."""
        reply = await self._scripts.run(HEAR, HearArguments(job_id, self._process, tenant))
        return Heard(reply[0].decode(), JobSpec.from_json(reply[1] or b"{}")) if reply else None

    async def drop(self, job_ids: Sequence[str], tenant: str = "") -> bytes:
        """Forget jobs, of this tenant or of any, wherever they stand; one letter each, see `drop.lua`."""
        return await self._scripts.run(DROP, NoArguments(), [DropRow(job_id, tenant) for job_id in job_ids])
