"""The waiting rooms: what the API and the workers say to Redis about jobs, each step one script in one round trip.

RedisUnavailable and RedisRefused become `BrokerUnavailable` where a caller waits for an answer.
`docs/protocol.md` tells the rules; the scripts in `shared/scripts/` keep them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared import keys
from shared.broker import ticket
from shared.errors import BrokerUnavailable, JobLost, NoWorker, QueueFull, QueueTimeout, RateLimited, Unprocessable
from shared.jobs import JobSpec, TakenJob
from shared.redis import Argument, RedisClient, RedisRefused, RedisUnavailable, Reply
from shared.scripting import Scripts
from shared.settings import LANES, Lane, ModelSettings, Settings, TokenSettings

INLINE_BYTES = 64 * 1024
"""Bodies up to this size travel inside `admit` and `take`; larger ones are stored by a plain SET first."""
LOG_KEEP_MS = 60_000
STORED_BODY_MS = 60_000
"""A large body whose admission never comes goes away by itself."""
MARGIN_MS = 120_000
"""A record outlives the longest legal life of its job by this much, so that the end can still be told."""

_TIMEOUT_WIRE = QueueTimeout(
    "The request waited longer than the model's max_wait_seconds and was not sent. Retry, or raise the limit."
).to_wire()
_LOST_WIRE = JobLost().to_wire()
_POISON_WIRE = JobLost(
    "Every worker that ran this request was lost; it is not tried again.", should_retry=False
).to_wire()
_NO_WORKER_WIRE = NoWorker("No worker serves this model at the moment. Retry shortly.", retry_after=5).to_wire()


@dataclass(frozen=True, slots=True, kw_only=True)
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
    """Estimated tokens: prompt bytes / 4 and the longest answer."""
    must_finish: bool = False
    idempotency: Idempotency | None = None


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A caller's Idempotency-Key, hashed with its token, and the hash of the body it came with."""

    key: str
    body: str


@dataclass(frozen=True, slots=True)
class Admitted:
    """An accepted job's place, and the token's request limit (0: none)."""

    job_id: str
    """Another id than was asked for: the job that this Idempotency-Key stands for."""
    ahead: int
    limit: int = 0
    remaining: int = 0
    reset_ms: int = 0

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the `x-ratelimit-*` headers; durations as OpenAI writes them (`1s`, `6m0s`)."""
        if not self.limit:
            return []
        return [
            (b"x-ratelimit-limit-requests", b"%d" % self.limit),
            (b"x-ratelimit-remaining-requests", b"%d" % max(0, self.remaining)),
            (b"x-ratelimit-reset-requests", duration(self.reset_ms).encode()),
        ]


def duration(milliseconds: int) -> str:
    """Return a Go-style duration, as clients parse `x-ratelimit-reset-*`: `12ms`, `1.5s`, `6m0s`."""
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:g}s"
    return f"{minutes}m{seconds}" if minutes else seconds


class Rooms:
    """The waiting rooms of all models, over one Redis connection."""

    def __init__(self, client: RedisClient, settings: Settings) -> None:
        self.client = client
        self._scripts = Scripts(client)
        self._settings = settings
        self._clock_offset_ms = 0.0
        self._last_run_id = ""
        self._limits = {name: self._admission_limits(name, model) for name, model in settings.models.items()}
        lanes = settings.lanes
        self._weights = (lanes.priority, lanes.default, lanes.flex, lanes.batch)
        self._lease_ms = round(settings.testing.lease_seconds * 1000)
        self._grace_ms = round(settings.testing.worker_grace_seconds * 1000)

    def _admission_limits(self, name: str, model: ModelSettings) -> tuple[tuple[Argument, ...], int]:
        life_ms = round((model.max_wait_seconds + model.timeout_seconds) * 1000) + MARGIN_MS
        limits = (
            model.max_queue,
            model.max_queue_tokens or 0,
            model.max_queue_bytes or 0,
            max(1, math.ceil(model.max_queue * self._settings.tenant_share)),
            model.concurrency,
        )
        return limits, life_ms

    @staticmethod
    def _max_wait_ms(model: ModelSettings, spec: JobSpec) -> int:
        """Return how long a job may wait: past a plain request's own read timeout nobody listens any more."""
        return round(min(model.max_wait_seconds, spec.client_seconds or model.max_wait_seconds) * 1000)

    # --- the API's side ---------------------------------------------------------------------------------------

    async def admit(self, job: Admission, *, not_after_ms: float) -> Admitted:
        """Put a job into its room and push a ticket; `not_after_ms` is Redis's clock, see `redis_now_ms`.

        Raises QueueFull, RateLimited, NoWorker, or BrokerUnavailable (the job may then still be admitted: cancel it).
        """
        model = self._settings.models[job.model]
        limits, life_ms = self._limits[job.model]
        token, body = job.token, job.body
        try:
            if len(body) > INLINE_BYTES:
                await self.client.call("SET", keys.body(job.id), body, "PX", STORED_BODY_MS)
                body = b""
            reply = await self._scripts.run(
                "admit",
                *(job.id, job.model, job.lane, token.name, token.weight, job.cost),
                *(body, len(job.body), job.spec.to_json(), job.owner, "1" if job.must_finish else ""),
                *(self._max_wait_ms(model, job.spec), life_ms, round(not_after_ms), *limits),
                *(token.name, token.requests_per_minute or 0, token.concurrent_jobs or 0, self._grace_ms),
                *(keys.queue(job.model), ticket(job.model), model.max_attempts),
                *((job.idempotency.key, job.idempotency.body) if job.idempotency else ("", "")),
                model.batch_reserve,
            )
        except (RedisUnavailable, RedisRefused) as error:
            raise broker_error(error) from error
        verdict, number = reply[0], int(reply[1])
        if verdict == b"join":
            return Admitted(reply[3].decode(), 0)
        if verdict != b"ok":
            raise _refusal(verdict, number, job, reply)
        return Admitted(job.id, number, *map(int, reply[3:6]))

    async def cancel(self, owner: str, job_ids: Sequence[str]) -> bytes:
        """Cancel an owner's jobs, waiting or running; one letter a job, see `cancel.lua`. Raises RedisUnavailable."""
        reply: bytes = await self._scripts.run("cancel", owner, *job_ids)
        return reply

    async def beat(self, owner: str, *, gone: bool = False) -> None:
        """Say that an API process lives (or leaves), and measure Redis's clock. Raises RedisUnavailable."""
        loop = asyncio.get_running_loop()
        before = loop.time()
        life_ms = round(self._settings.testing.owner_seconds * 1000)
        now = int(await self._scripts.run("beat", owner, life_ms, "gone" if gone else "alive"))
        self._clock_offset_ms = now - (before + loop.time()) / 2 * 1000

    def redis_now_ms(self) -> float:
        """Return Redis's clock in ms, as estimated from the last heartbeat."""
        return asyncio.get_running_loop().time() * 1000 + self._clock_offset_ms

    async def peek(self, wanted: Sequence[tuple[str, int]], budget_bytes: int) -> list[list[bytes]]:
        """Return, for as many of the (job id, next event number) as the budget allows, the state and missed events."""
        reply: list[list[bytes]] = await self._scripts.run("peek", budget_bytes, *[x for pair in wanted for x in pair])
        return reply

    # --- the workers' side ------------------------------------------------------------------------------------

    async def take(
        self,
        model_name: str,
        nonce: str,
        *,
        free: int,
        mine: int,
        surplus: bool,
        concurrency: int | None = None,
        awake_ms: int = 0,
    ) -> tuple[list[TakenJob], bool]:
        """Move waiting jobs into the running set; returns them, and whether more could be taken for free slots.

        `mine` is how many this worker already runs; without `surplus` it takes no more than its fair part.
        `concurrency` lowers the model's own limit, as when one of its backends is ejected. With `awake_ms` the caller
        promises to take again within that time, so that no tickets need be pushed.
        """
        model = self._settings.models[model_name]
        self._note_server()
        reply = await self._scripts.run(
            "take",
            *(model_name, nonce, free, mine, "1" if surplus else ""),
            *(concurrency or model.concurrency, model.batch_reserve, self._lease_ms, _TIMEOUT_WIRE, *self._weights),
            *(awake_ms, keys.queue(model_name), ticket(model_name)),
        )
        now = int(reply[0])
        jobs = []
        for at in range(2, len(reply), 5):
            job_id, attempt, admitted, meta, body = reply[at : at + 5]
            jobs.append(
                TakenJob(
                    id=job_id.decode(), model=model_name, attempt=attempt, spec=JobSpec.from_json(meta),
                    body=body, queue_ms=max(0, now - int(admitted)),
                )
            )  # fmt: skip
        large = [job for job in jobs if job.body is None]
        bodies = await asyncio.gather(
            *(self.client.call("GET", keys.body(job.id)) for job in large), return_exceptions=True
        )
        for job, body in zip(large, bodies, strict=True):
            if isinstance(body, BaseException):
                jobs.remove(job)  # taken but unreadable: its lease runs out, and it is taken again
            else:
                job.body = body
        return jobs, reply[1] == 1

    async def append(self, parts: Iterable[Argument]) -> bytes:
        """Store events of many jobs; `parts` as in `append.lua`, returns one letter a job."""
        reply: bytes = await self._scripts.run("append", LOG_KEEP_MS, *parts)
        return reply

    async def release(self, model: str, jobs: Sequence[tuple[str, bytes, str]]) -> bytes:
        """Give up running jobs: (id, attempt, 'end' or 'back'); a ticket tells others of what waits then."""
        flat: list[Argument] = [x for job in jobs for x in job]
        reply: bytes = await self._scripts.run("release", keys.queue(model), ticket(model), *flat)
        return reply

    async def renew(self, worker: str, models: Sequence[str], jobs: Sequence[tuple[str, bytes]]) -> Renewal:
        """Renew a process's leases and its presence among the live workers of its models."""
        flat: list[Argument] = [x for job in jobs for x in job]
        reply = await self._scripts.run("renew", worker, self._lease_ms, len(models), *models, *flat)
        lost = {reply[i].decode(): reply[i + 1].decode() for i in range(1, len(reply), 2)}
        waiting = tuple(model for model, flag in zip(models, reply[0].decode(), strict=True) if flag == "1")
        return Renewal(lost, waiting)

    async def leave(self, worker: str, models: Sequence[str]) -> None:
        """Say that a worker no longer serves these models."""
        await self._scripts.run("leave", worker, *models)

    # --- anybody's --------------------------------------------------------------------------------------------

    async def sweep(self, sweeper: str) -> list[int]:
        """Run the recovery clock if this process is elected; [] or [now, reclaimed, expired, orphaned, tickets]."""
        self._note_server()
        models: list[Argument] = []
        for name, model in self._settings.models.items():
            models += [name, model.concurrency, keys.queue(name), ticket(name)]
        testing = self._settings.testing
        reply: list[int] = await self._scripts.run(
            "sweep", sweeper, round(testing.sweep_seconds * 1000), self._lease_ms, self._grace_ms,
            _TIMEOUT_WIRE, _LOST_WIRE, _POISON_WIRE, _NO_WORKER_WIRE, *models,
        )  # fmt: skip
        return reply

    def _note_server(self) -> None:
        """When Redis was replaced, stop all takes for one lease, with the command that goes out before this one.

        The new server may have lost its running set; jobs that run would be counted out and the cap doubled.
        """
        run_id, self._last_run_id = self._last_run_id, self.client.run_id
        if run_id and run_id != self.client.run_id:
            hold = self.client.call("SET", keys.HOLD, "1", "PX", self._lease_ms)
            hold.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def depth(self) -> dict[str, Depth]:
        """Return what waits and runs, per model."""
        names = list(self._settings.models)
        reply = await self._scripts.run("depth", *names)
        return {
            name: Depth(
                waiting=dict(zip(LANES, map(int, row[:4]), strict=True)), running=int(row[4]), workers=int(row[5]),
                oldest_ms=int(row[6]), every_ms=float(row[7]),
            )
            for name, row in zip(names, reply, strict=True)
        }  # fmt: skip

    async def load(self) -> None:
        """Load every script and make every ticket, so that the first request is answered as fast as the last."""
        for name in self._settings.models:
            ticket(name)
        await self._scripts.load("admit", "take", "append", "release", "cancel", "renew", "beat", "peek", "sweep")


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """One model's queue at a moment."""

    waiting: dict[Lane, int]
    running: int
    workers: int
    oldest_ms: int
    every_ms: float
    """Mean time between two ends, in ms."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a worker hears when it renews its leases."""

    lost: dict[str, str]
    """Jobs to give up, with the reason letter of `renew.lua`."""
    waiting: tuple[str, ...]
    """Models for which jobs wait."""


def broker_error(error: RedisUnavailable | RedisRefused) -> BrokerUnavailable:
    """Return what a caller is told when Redis is away, frozen, loading or full; the cause stays in our logs."""
    return BrokerUnavailable(retry_after=2)


def _refusal(verdict: bytes, milliseconds: int, job: Admission, reply: Reply) -> Exception:
    seconds = milliseconds / 1000
    if verdict == b"full":
        return QueueFull(f"The queue of model `{job.model}` is full. Retry after {seconds:.0f} s.", retry_after=seconds)
    if verdict == b"share":
        return QueueFull(
            f"This token fills its share of the queue of model `{job.model}`. Retry after {seconds:.0f} s.",
            retry_after=seconds,
        )
    if verdict in (b"rate", b"jobs"):
        limit, remaining, reset = (int(x) for x in reply[3:6])
        headers = {k.decode(): v.decode() for k, v in Admitted(job.id, 0, limit, remaining, reset).headers()}
        if verdict == b"rate":
            text = f"Rate limit reached: {limit} requests per minute. Please try again in {duration(milliseconds)}."
        else:
            text = f"This token may have {job.token.concurrent_jobs} requests in progress. Retry when one has ended."
        return RateLimited(text, retry_after=seconds, headers=headers)
    if verdict == b"reused":
        return Unprocessable(
            "This Idempotency-Key was used with another body. Use a new key for a new request.",
            code="idempotency_key_reused",
        )
    if verdict == b"no_worker":
        return NoWorker(f"No worker serves model `{job.model}` at the moment. Retry shortly.", retry_after=seconds)
    return BrokerUnavailable(retry_after=2)
