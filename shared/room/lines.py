"""What a batch's feeder says to Redis: its lease, lines admitted and taken back, results, progress.

A line is an ordinary job of the batch lane without an owner. Its `sink` is its batch: the script that ends it also
lists it there. Its id is made of batch and line, so that whoever admits it again, after a crash, is told so.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from shared import keys
from shared.broker import batch_ticket, ticket
from shared.catalogue import Catalogue
from shared.jobs import JobSpec, new_id
from shared.protocol import DAY_MS, INLINE_BYTES
from shared.redis import RedisClient
from shared.redis.bulk import Bulk
from shared.room.admission import MARGIN_MS, STORED_BODY_MS
from shared.room.facts import with_facts
from shared.room.lease import LEASE_MS
from shared.room.limits import budget_rows, limits_of
from shared.room.scripts import (
    ACKNOWLEDGE,
    ADMIT,
    CANCEL,
    HOLD,
    LET_GO,
    PEEK,
    RESULTS,
    AdmitArguments,
    AdmitLimits,
    BatchArguments,
    FeederArguments,
    IdRow,
    OwnerArguments,
    PeekArguments,
    PeekRow,
    ResultsArguments,
)
from shared.scripting import Scripts, flag
from shared.token_settings import TokenSettings

PLACE_MS: Final = 60_000
"""Of what a token's batches say of their order."""
MAX_RESULTS: Final = 500
"""Results in one call: it holds up Redis for everybody."""
_NO_EVENTS: Final = 2**40
"""Peeking from here on brings the state alone."""


def line_id(created_us: int, line: int, batch_id: str) -> str:
    """Return the job id of a line, the same at each try: 32 hex digits that sort by time and line."""
    digest = hashlib.sha256(batch_id.encode()).hexdigest()
    return f"{created_us:014x}{line:05x}00{digest[:11]}"


def line_number(job_id: str) -> int:
    """Return which line of its batch a job is."""
    return int(job_id[14:19], 16)


@dataclass(slots=True, kw_only=True)
class LineJob:
    """A line to be admitted."""

    id: str
    body: bytes
    spec: JobSpec
    cost: float
    estimate: float = 0
    """The cost before it was corrected by what others had."""


class Result(NamedTuple):
    """What the sink tells of a line that has ended; no events: they went before they were read."""

    job_id: str
    events: Sequence[bytes]


class Lines:
    """One process's side of the batches in Redis. Every method raises RedisUnavailable or RedisRefused."""

    def __init__(self, client: RedisClient, bulk: Bulk, catalogue: Catalogue, process: str) -> None:
        """Take the name of this process, which no other has: leases bear it."""
        self._client = client
        self._scripts = Scripts(client)
        self._bulk = bulk
        self._catalogue = catalogue
        self._process = process

    async def ring(self, batch_id: str) -> None:
        """Wake a process that carries batches: this one is new, or is to be cancelled."""
        await self._client.call("LPUSH", keys.BATCH_QUEUE, batch_ticket(batch_id, new_id()))

    async def hold(self, batch_id: str) -> bool:
        """Take or renew the lease of a batch; False where another process has it."""
        return await self._scripts.run(HOLD, FeederArguments(batch_id, self._process, LEASE_MS)) == 1

    async def let_go(self, batch_id: str) -> None:
        """Give the lease back."""
        await self._scripts.run(LET_GO, FeederArguments(batch_id, self._process, LEASE_MS))

    async def admit(
        self, batch_id: str, model: str, token: TokenSettings, jobs: Sequence[LineJob], *, life_seconds: float
    ) -> list[bool]:
        """Put lines into their room, in one round trip; False: that line is under way, or its result waits.

        `life_seconds` is what is left of the batch's window: no line outlives it by much.
        """
        limits = self._limits(model, life_seconds)
        large = [job for job in jobs if len(job.body) > INLINE_BYTES]
        for job in large:  # under way already: then its body must stay as it is
            if not await self._client.call("EXISTS", keys.job(job.id)):
                await self._bulk.store(keys.body(job.id), job.body, STORED_BODY_MS)
        # Its other limits are of requests; of batches it has others.
        rows = [ADMIT.keep(row) for row in budget_rows(limits_of(token).rows)]
        asked = (with_facts(_arguments(batch_id, model, token, job), limits) for job in jobs)
        standing = ADMIT.stand(limits)
        calls = (self._scripts.run(ADMIT, one, rows, standing) for one in asked)
        return [reply.verdict == b"ok" for reply in await asyncio.gather(*calls)]

    def _limits(self, name: str, life_seconds: float) -> AdmitLimits:
        model = self._catalogue.models[name]
        return AdmitLimits(
            life_ms=round((life_seconds + model.timeout_seconds) * 1000) + MARGIN_MS,
            max_queue=0,
            max_queue_tokens=0,
            max_queue_bytes=0,
            tenant_share=0,
            concurrency=model.asked(model.places),
            batch_reserve=model.kept_from_batch(model.places, time.time()),
            grace_ms=0,
            queue=keys.queue(name),
            ticket=ticket(name),
            max_tries=model.max_attempts,
            people_first=flag(model.preempt_batch_after_ms),
            weights_text=self._catalogue.settings.lanes.text,
            uncounted=flag(not self._catalogue.settings.usage.count),
        )

    async def results(self, batch_id: str, start: int, budget_bytes: int) -> list[Result]:
        """Return results from place `start` of the sink on, oldest first; they stay until they are acknowledged."""
        reply = await self._scripts.run(RESULTS, ResultsArguments(batch_id, start, MAX_RESULTS, budget_bytes))
        return [Result(job_id.decode(), events) for job_id, *events in reply]

    async def ended_lines(self, batch_id: str) -> set[int]:
        """Return the numbers of the lines whose results wait."""
        ids: list[bytes] = await self._client.call("LRANGE", keys.results(batch_id), 0, -1)
        return {line_number(job_id.decode()) for job_id in ids}

    async def acknowledge(self, batch_id: str, job_ids: Sequence[str]) -> None:
        """Drop results that are kept elsewhere now."""
        await self._scripts.run(ACKNOWLEDGE, BatchArguments(batch_id, 0), map(IdRow, job_ids))

    async def cancel(self, job_ids: Sequence[str]) -> None:
        """Take lines back: those that wait are gone, those that run are stopped."""
        await self._scripts.run(CANCEL, OwnerArguments(""), map(IdRow, job_ids))

    async def states(self, job_ids: Sequence[str]) -> dict[str, str]:
        """Return waiting, running or ended for each line; nothing for one that Redis does not know (any more)."""
        rows = [PeekRow(job_id, _NO_EVENTS) for job_id in job_ids]
        reply = await self._scripts.run(PEEK, PeekArguments(1), rows)
        return {job_id: state.decode() for job_id, (state, *_) in zip(job_ids, reply, strict=True)}

    async def ended(self, job_id: str) -> Result:
        """Return one ended line's events, whether or not the sink has it."""
        return Result(job_id, await self._client.call("LRANGE", keys.log(job_id), 0, -1))

    async def say(self, batch_id: str, progress: Mapping[str, int | float | str]) -> None:
        """Tell everybody how far a batch is, or remember what is lost without harm."""
        flat = [part for pair in progress.items() for part in pair]
        set_it = self._client.call("HSET", keys.batch(batch_id), *flat)
        await asyncio.gather(set_it, self._client.call("PEXPIRE", keys.batch(batch_id), DAY_MS))

    async def progress(self, batch_id: str) -> dict[str, str]:
        """Return what was told last; empty when nothing was for a day."""
        return await progress_of(self._client, batch_id)

    async def stand(self, batch_id: str, token: str, model: str, told: str | None) -> dict[str, str]:
        """Say which place a batch has among those of its token and model, or that it has none; returns all places."""
        key = keys.order(token, model)
        say = ("HDEL", key, batch_id) if told is None else ("HSET", key, batch_id, told)
        calls = (say, ("PEXPIRE", key, PLACE_MS), ("HGETALL", key))
        flat = (await asyncio.gather(*(self._client.call(*words) for words in calls)))[-1]
        return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}

    async def clear(self, batch_id: str) -> None:
        """Drop everything of an ended batch: nobody takes its results any more."""
        await self._client.call("DEL", keys.results(batch_id), keys.batch(batch_id))


async def progress_of(client: RedisClient, batch_id: str) -> dict[str, str]:
    """Return what was told last of a batch; empty when nothing was for a day."""
    flat = await client.call("HGETALL", keys.batch(batch_id))
    return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _arguments(batch_id: str, model: str, token: TokenSettings, job: LineJob) -> AdmitArguments:
    group, is_large = token.in_group, len(job.body) > INLINE_BYTES
    spec = (job.spec if group is None else job.spec.within(group.name)).to_json()
    return AdmitArguments(
        id=job.id,
        model=model,
        lane="batch",
        tenant=token.name,
        weight=token.weight,
        cost=job.cost,
        body=b"" if is_large else job.body,
        apart=flag(is_large),
        size=len(job.body) + len(spec),
        spec=spec,
        owner="",
        must_finish="1",
        ask="",
        max_wait_ms=0,
        # However late it runs: the id says whether it was run already.
        not_after=10**15,
        promised_to="",
        is_retry="",
        idempotency="",
        body_hash="",
        sink=batch_id,
        at_once="",
        group=group.name if group is not None else "",
        group_weight=group.weight if group is not None else 0,
        kind=job.spec.kind,
    )
