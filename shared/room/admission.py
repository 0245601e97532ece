"""What an API process says of its jobs: admitted, cancelled, forgotten, looked at; and that it lives.

RedisUnavailable and RedisRefused become `BrokerUnavailable` where a caller waits for an answer.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import Any, NamedTuple

from shared import keys
from shared.broker import ticket
from shared.catalogue import Catalogue
from shared.errors import (
    AqueductError,
    BrokerUnavailable,
    ModelRetired,
    NoWorker,
    QueueFull,
    ResourceUnavailable,
    Unprocessable,
)
from shared.holds import first_hold
from shared.jobs import JobSpec
from shared.lanes import Lane
from shared.protocol import INLINE_BYTES, process_name
from shared.redis import RedisClient, RedisRefused, RedisUnavailable
from shared.redis.bulk import Bulk
from shared.redis.turns import Turns
from shared.room.facts import with_facts
from shared.room.limits import Limits, Rate, limit_error, limits_of, promised_to, rate_headers, rates_of
from shared.room.scripts import (
    ADMIT,
    BEAT,
    CANCEL,
    FORGET,
    LOOK,
    PEEK,
    STAND,
    AdmitArguments,
    AdmitLimits,
    AdmitReply,
    BeatArguments,
    ForgetArguments,
    IdRow,
    LookArguments,
    OwnerArguments,
    PeekArguments,
    PeekRow,
    StandArguments,
    StandRow,
)
from shared.scripting import Scripts, flag
from shared.settings import ModelSettings
from shared.token_settings import TokenSettings

MAX_ASKED = 1000
"""Admissions on their way to Redis, which runs so many in some 0.1 s; and the bytes of their bodies."""
MAX_ASKED_BYTES = 16 * 1024 * 1024
ADMIT_SECONDS = 1.6
"""An admission that Redis runs later than this is refused by the script itself: the caller was told 503."""
STORED_BODY_MS = 60_000
"""A large body whose admission never comes goes away by itself."""
FOR_EVER_MS = 10**15
MARGIN_MS = 900_000
"""A record outlives the longest legal life of its job by this much, so that the end can still be told; and so that a
clock that is set on by some minutes, by which Redis counts lifetimes too, takes no running job's record away."""


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A caller's Idempotency-Key, hashed with its token, and the hash of the body it came with."""

    key: str
    body: str


@dataclass(slots=True, kw_only=True)  # not frozen, as `JobSpec`
class Admission:
    """What `admit` is asked to accept."""

    id: str
    model: str
    token: TokenSettings
    lane: Lane
    owner: str
    body: bytes
    spec: JobSpec
    cost: float
    """Estimated tokens: prompt bytes / 4 and the longest answer; corrected by what others have cost."""
    estimate: float = 0
    """The same, not corrected."""
    must_finish: bool = False
    sink: str = ""
    """Who takes its end, beside its owner."""
    at_once: bool = False
    """It is refused where it would have to wait for a slot."""
    idempotency: Idempotency | None = None
    is_retry: bool = False
    """Its client says that it has tried before."""


class Line(NamedTuple):
    """How fast a model's line moves."""

    held_ms: int
    """How long a job holds its slot, on average of the last ones; 0 where none has ended yet."""
    places: int
    """How many run at once."""
    ages_ms: Sequence[int]
    """How long running jobs have run; of a sample where there are very many."""
    held: str = ""
    """What holds the whole model (`shared/holds.py`); empty where it moves."""


class Admitted(NamedTuple):
    """An accepted job's place, and its limits a minute where it has some."""

    job_id: str
    """Another id than was asked for: the job that this Idempotency-Key stands for."""
    ahead: int
    rates: Sequence[int] = ()
    """What is told of its limits a minute (`AdmitReply.rates`)."""
    before: int | None = None
    """Jobs that go before it, where it must wait; None where a free slot takes it at once."""
    line: Line | None = None
    """How fast the line moves, where it must wait and no more run than could be looked at."""

    @property
    def requests(self) -> Rate | None:
        """The limit of requests, as it stands."""
        return rates_of(self.rates)[0]

    @property
    def tokens(self) -> Rate | None:
        """The limit of tokens, as it stands."""
        return rates_of(self.rates)[1]

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the `x-ratelimit-*` headers."""
        return rate_headers(self.rates)


class Missed(NamedTuple):
    """What a reader has missed of one job."""

    state: bytes
    """waiting, running, ended; empty: there is no such job."""
    nonce: bytes
    """Of the attempt whose events these are."""
    length: int
    """Of the log: events up to here have happened."""
    events: Sequence[bytes]


class Look(NamedTuple):
    """What is known of a job; times in Unix milliseconds, 0 where there was none yet."""

    tenant: str
    model: str
    lane: str
    state: str
    tries: int
    admitted: int
    taken: int
    begun: int
    ended: int
    now: int


class _Terms(NamedTuple):
    """What an admission goes by, of the catalogue as it was when it was asked for."""

    limits: Limits
    model_limits: AdmitLimits
    standing: bytes
    """The same as it travels."""
    max_wait_seconds: float


class Admissions:
    """One API process's side of the waiting rooms."""

    def __init__(self, client: RedisClient, bulk: Bulk, catalogue: Catalogue, owner: str) -> None:
        self._scripts = Scripts(client)
        self._bulk = bulk
        self._catalogue = catalogue
        self._owner = owner
        self._clock_offset_ms = 0.0
        self._limits: dict[str, tuple[AdmitLimits, bytes]] = {}
        """Of each model, and how they travel."""
        self._changed()
        catalogue.follow(self._changed)
        self._life_ms = round(catalogue.settings.testing.owner_seconds * 1000)
        self._loop = asyncio.get_running_loop()
        self._turns = Turns(MAX_ASKED, MAX_ASKED_BYTES)

    def _changed(self) -> None:
        """Make what each admission says of its model, so that none has to."""
        limits = {name: self._limits_of(name, model) for name, model in self._catalogue.models.items()}
        self._limits = {name: (one, ADMIT.stand(one)) for name, one in limits.items()}

    def _limits_of(self, name: str, model: ModelSettings) -> AdmitLimits:
        return AdmitLimits(
            life_ms=round((model.max_wait_seconds + model.timeout_seconds) * 1000) + MARGIN_MS,
            max_queue=model.max_queue,
            max_queue_tokens=model.max_queue_tokens or 0,
            max_queue_bytes=model.max_queue_bytes or 0,
            tenant_share=max(1, math.ceil(model.max_queue * self._catalogue.settings.tenant_share)),
            concurrency=model.asked(model.places),
            batch_reserve=model.kept_from_batch(model.places),
            grace_ms=self._grace_ms(model),
            queue=keys.queue(name),
            ticket=ticket(name),
            max_tries=model.max_attempts,
            people_first=flag(model.preempt_batch_after_ms),
            weights_text=self._catalogue.settings.lanes.text,
            uncounted=flag(not self._catalogue.settings.usage.count),
        )

    def _grace_ms(self, model: ModelSettings) -> int:
        """Return how long a model may be without a worker until it is refused."""
        if model.when_absent == "hold":
            return FOR_EVER_MS  # its workers may be away as its backends may
        return round(self._catalogue.settings.testing.worker_grace_seconds * 1000)

    async def admit(self, job: Admission, *, not_after_ms: float | None = None) -> Admitted:
        """Put a job into its room and push a ticket; `not_after_ms` is Redis's clock, by default soon.

        Raises QueueFull, ResourceUnavailable, RateLimited, InsufficientQuota, NoWorker, Unprocessable, or
        BrokerUnavailable (the job may then still be admitted: cancel it).
        """
        try:
            # Known before anything is waited for: a reload may take the model away meanwhile.
            terms = _Terms(limits_of(job.token), *self._limits[job.model], self.longest_wait(job))
            if len(job.body) <= INLINE_BYTES:
                return await self._ask(job, terms, not_after_ms)
            # Whether there is room is asked first: what is refused is not even stored.
            place = await self._ask(job, terms, not_after_ms, is_question=True)
            if place.job_id != job.id:
                return place
            await self._bulk.store(keys.body(job.id), job.body, STORED_BODY_MS)
            return await self._ask(job, terms, not_after_ms)
        except (RedisUnavailable, RedisRefused) as error:
            raise broker_error(error) from error

    async def _ask(
        self, job: Admission, terms: _Terms, not_after_ms: float | None, *, is_question: bool = False
    ) -> Admitted:
        """Run the script once it is this one's turn: so many are on their way that Redis answers each in time.

        Of a burst, the rest waits here for as long as Redis answers at all.
        """
        size = len(job.body) if len(job.body) <= INLINE_BYTES else 0
        await self._turns.take(size)
        try:
            asked = self._arguments(job, terms, not_after_ms, is_question=is_question)
            reply = await self._scripts.run(ADMIT, asked, terms.limits.kept, terms.standing)
        except RedisUnavailable as error:
            why = str(error)
            self._turns.refuse(lambda: RedisUnavailable(why))
            raise
        finally:
            self._turns.give_back(size)
        return _admitted(job, reply)

    def _arguments(
        self, job: Admission, terms: _Terms, not_after_ms: float | None, *, is_question: bool
    ) -> AdmitArguments:
        token, group = job.token, job.token.in_group
        spec = (job.spec if group is None else job.spec.within(group.name)).to_json()
        is_large = len(job.body) > INLINE_BYTES
        not_after = self.redis_now_ms() + ADMIT_SECONDS * 1000 if not_after_ms is None else not_after_ms
        asked = AdmitArguments(
            id=job.id,
            model=job.model,
            lane=job.lane,
            tenant=token.name,
            weight=token.weight,
            cost=job.cost,
            body=b"" if is_large else job.body,
            apart=flag(is_large),
            size=len(job.body) + len(spec),
            spec=spec,
            owner=job.owner,
            must_finish=flag(job.must_finish),
            ask=flag(is_question),
            max_wait_ms=round(terms.max_wait_seconds * 1000),
            not_after=round(min(not_after, 1e15)),
            promised_to=promised_to(token, job.body) if terms.limits.are_minutely else "",
            is_retry=flag(job.is_retry),
            idempotency=job.idempotency.key if job.idempotency else "",
            body_hash=job.idempotency.body if job.idempotency else "",
            sink=job.sink,
            at_once=flag(job.at_once),
            group=group.name if group is not None else "",
            group_weight=group.weight if group is not None else 0,
            kind=job.spec.kind,
        )
        return with_facts(asked, terms.model_limits)

    def longest_wait(self, job: Admission) -> float:
        """Return the seconds that a job may wait; past a plain request's own read timeout nobody listens any more."""
        longest = self._catalogue.models[job.model].max_wait_seconds
        return min(longest, job.spec.client_seconds or longest)

    async def cancel(self, job_ids: Sequence[str]) -> bytes:
        """Take this process out of jobs, and cancel those that nobody else owns; one letter a job, see `cancel.lua`.

        Raises RedisUnavailable or RedisRefused.
        """
        return await self._scripts.run(CANCEL, OwnerArguments(self._owner), map(IdRow, job_ids))

    async def forget(self, job_ids: Sequence[str], *, keep: int = 0) -> int:
        """Drop what is left of ended jobs that are this process's alone; returns how many. Raises as `cancel`.

        The first `keep` of them leave their records for a minute, for whoever asks what became of them.
        """
        return await self._scripts.run(FORGET, ForgetArguments(self._owner, keep), map(IdRow, job_ids))

    async def stand(self, model_name: str, jobs: Iterable[tuple[str, str]]) -> tuple[Line, Sequence[int]]:
        """Return how fast a model's line moves, and for each of these jobs, with its lane, how many go before it.

        -1: it does not wait. Raises as `cancel`.
        """
        model = self._catalogue.models.get(model_name)
        if model is None:  # of a configuration that is no more
            return Line(0, 1, ()), [-1 for _ in jobs]
        # Where batch work makes room, none of it goes before others.
        kept = model.places if model.preempt_batch_after_ms else model.kept_from_batch(model.places, time.time())
        asked = StandArguments(model_name, model.asked(model.places), kept, self._catalogue.settings.lanes.text)
        (held_ms, running, held, *ages_ms), *before = await self._scripts.run(STAND, asked, starmap(StandRow, jobs))
        return Line(held_ms, running or model.places, ages_ms, first_hold(held.decode())), before

    async def look(self, job_id: str) -> Look | None:
        """Return what is known of a job; None where there is no record of it. Raises as `cancel`."""
        reply = await self._scripts.run(LOOK, LookArguments(job_id))
        if not reply:
            return None
        tenant, model, lane, state, *numbers = reply
        return Look(tenant.decode(), model.decode(), lane.decode(), state.decode(), *map(int, numbers))

    async def peek(self, wanted: Sequence[tuple[str, int]], budget_bytes: int) -> list[Missed]:
        """Return, for as many of the (job id, next event number) as the budget allows, the state and missed events."""
        reply = await self._scripts.run(PEEK, PeekArguments(budget_bytes), (PeekRow(*pair) for pair in wanted))
        return [Missed(state, nonce, length, missed) for state, nonce, length, *missed in reply]

    async def beat(self, *, gone: bool = False) -> None:
        """Say that this process lives (or leaves), and measure Redis's clock. Raises as `cancel`."""
        before = self._loop.time()
        beat = BeatArguments(self._owner, process_name(self._owner), self._life_ms, flag(gone))
        now = await self._scripts.run(BEAT, beat)
        self._clock_offset_ms = now - (before + self._loop.time()) / 2 * 1000

    def redis_now_ms(self) -> float:
        """Return Redis's clock in ms, as estimated from the last heartbeat."""
        return self._loop.time() * 1000 + self._clock_offset_ms


def broker_error(error: RedisUnavailable | RedisRefused) -> BrokerUnavailable:
    """Return what a caller is told when Redis is away, frozen, loading or full; the cause stays in our logs."""
    return BrokerUnavailable(retry_after=2)


def _admitted(job: Admission, reply: AdmitReply) -> Admitted:
    """Return where the job stands; raises what a refusal means for the caller."""
    verdict = reply.verdict
    if verdict == b"ok":
        before = reply.before if reply.before >= 0 else None
        return Admitted(job.id, reply.number, reply.rates, before, _line(reply.line))
    if verdict == b"join":
        return Admitted(reply.joined.decode(), reply.number)
    refusal = limit_error(reply) or _refusal(job, reply)
    refusal.headers |= {key.decode(): value.decode() for key, value in rate_headers(reply.rates)}
    raise refusal


def _refusal(job: Admission, reply: AdmitReply) -> AqueductError:
    """Return what a caller is told whom no limit of its own refuses."""
    verdict, seconds = reply.verdict, reply.number / 1000
    if verdict == b"full":
        return QueueFull(f"The queue of model `{job.model}` is full. Retry after {seconds:.0f} s.", retry_after=seconds)
    if verdict == b"share":
        who = "This token" if job.token.in_group is None else f"This token's group `{job.token.in_group.name}`"
        text = f"{who} fills its share of the queue of model `{job.model}`. Retry after {seconds:.0f} s."
        return QueueFull(text, retry_after=seconds)
    if verdict == b"busy":
        return ResourceUnavailable(
            f"No slot of model `{job.model}` is free, and `flex` requests are not queued. Retry after {seconds:.0f} s, "
            "or leave 'service_tier' out.",
            param="service_tier",
            retry_after=seconds,
        )
    if verdict == b"reused":
        return Unprocessable(
            "This Idempotency-Key was used with another body. Use a new key for a new request.",
            code="idempotency_key_reused",
        )
    if verdict == b"retired":
        return ModelRetired(job.model)
    if verdict == b"no_worker":
        return NoWorker(f"No worker serves model `{job.model}` at the moment. Retry shortly.", retry_after=seconds)
    return BrokerUnavailable(retry_after=2)


def _line(told: Sequence[Any]) -> Line | None:
    """Return what `line_now` tells, where that is enough to go by."""
    if not told:
        return None
    held_ms, running, held, *ages_ms = told
    return Line(held_ms, running or 1, ages_ms, first_hold(held.decode())) if ages_ms or held else None
