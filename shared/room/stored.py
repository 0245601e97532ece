"""Answers that are stored, as long as they are in Redis: what has ended and waits for the file store, and who listens.

A job that is to be stored has the sink `stored`. The script that ends it lists it there, whichever process lives; its
record, with what was asked, and its log stay until somebody has written them to the store and says so.
"""

from __future__ import annotations

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
    BatchArguments,
    DropRow,
    FeederArguments,
    HearArguments,
    IdRow,
    NoArguments,
)
from shared.scripting import Scripts

MAX_BYTES: Final = 64 * 1024 * 1024
"""Of an answer that is stored."""
PART_EVENTS: Final = 64


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

    async def ended(self, start: int, most: int) -> list[str]:
        """Return the ids of what has ended, from place `start` of the sink on, oldest first."""
        ids: list[bytes] = await self._client.call("LRANGE", keys.results(STORED), start, start + most - 1)
        return [job_id.decode() for job_id in ids]

    async def look(self, job_id: str) -> Known | None:
        """Return what is known of one job; None where it is none whose answer is stored.

        Events, and what was asked, only once it has ended. Raises ValueError for a record that cannot be read.
        """
        record = await self._client.call("HMGET", keys.job(job_id), "facts", "state", "spec", "body", "cancelled")
        facts, state, spec, body, cancelled = record
        if facts is None or cancelled == b"1":
            return None
        told = orjson.loads(facts)
        if told.get("sink") != STORED:
            return None
        known = Known(job_id, told["tenant"], state.decode(), JobSpec.from_json(spec or b"null"), None, ())
        if known.state != "ended":
            return known
        if told.get("apart"):
            body = await self._bulk.fetch(keys.body(job_id))
        return known._replace(body=body or None, events=await self._events(job_id))

    async def _events(self, job_id: str) -> list[bytes]:
        found: list[bytes] = []
        size = 0
        while True:  # in parts: a whole one of megabytes would hold up everything else
            part = await self._client.call("LRANGE", keys.log(job_id), len(found), len(found) + PART_EVENTS - 1)
            found += part
            size += sum(map(len, part))
            if size > MAX_BYTES:
                raise ValueError(f"an answer of more than {MAX_BYTES} bytes")
            if len(part) < PART_EVENTS:
                return found

    async def acknowledge(self, job_ids: Sequence[str]) -> None:
        """Take from the sink what the store has now; readers may be at it for a minute more."""
        await self._scripts.run(ACKNOWLEDGE, BatchArguments(STORED, KEEP_MS), map(IdRow, job_ids))

    async def hear(self, job_id: str, tenant: str) -> Heard | None:
        """Hear a job's events from now on, until `cancel`; None where the tenant has no such job."""
        reply = await self._scripts.run(HEAR, HearArguments(job_id, self._process, tenant))
        return Heard(reply[0].decode(), JobSpec.from_json(reply[1])) if reply and reply[1] else None

    async def drop(self, job_ids: Sequence[str], tenant: str = "") -> bytes:
        """Forget jobs, of this tenant or of any, wherever they stand; one letter each, see `drop.lua`."""
        return await self._scripts.run(DROP, NoArguments(), [DropRow(job_id, tenant) for job_id in job_ids])
