"""A plain Python model of the waiting rooms: what was asked and when goes in, what must be answered and stand comes out.

It keeps jobs, who waits where, and who lives. Every counter is reckoned from those anew at each look, so a script that
counts wrongly differs at once. Its times are its own: the moment at which the step ran, on a clock that counts all time
that was let pass.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from shared.protocol import (
    DAY_MS,
    KEEP_MS,
    LIVE_WORKER_MS,
    NO_NONCE,
    NONCE_BYTES,
    OWNER_MS,
    PROMISE_MS,
    STANDSTILL_MS,
)
from shared.room.scripts import AdmitArguments, SweepArguments, SweepRow, TakeArguments

LANES: Final = ("priority", "default", "flex", "batch")
FAILED: Final = "E"


@dataclass(slots=True)
class Job:
    """One admitted job, and what is left of it."""

    asked: AdmitArguments
    admitted: float
    owners: list[str]
    deadline: float
    expires: float
    tag: float = 0.0
    state: str = "waiting"
    attempt: str = ""
    tries: int = 0
    is_cancelled: bool = False
    has_spec: bool = True
    is_readable: bool = True

    @property
    def id(self) -> str:
        """Its name."""
        return self.asked.id

    @property
    def model(self) -> str:
        """Whose room it is in."""
        return self.asked.model

    @property
    def lane(self) -> str:
        """Where it waits."""
        return self.asked.lane

    @property
    def must_finish(self) -> bool:
        """It ends by itself, whoever leaves."""
        return self.asked.must_finish == "1"

    @property
    def is_bounded(self) -> bool:
        """Its room's limits hold for it."""
        return self.lane != "batch" or not self.must_finish


@dataclass(slots=True)
class Log:
    """A job's events."""

    events: list[str]
    expires: float


@dataclass(slots=True)
class Room:
    """One model's waiting room."""

    lanes: dict[str, dict[str, float]] = field(default_factory=lambda: {lane: {} for lane in LANES})
    waits: dict[str, float] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)
    batch_running: set[str] = field(default_factory=set)
    tags: dict[str, dict[str, float]] = field(default_factory=lambda: {lane: {} for lane in LANES})
    passes: dict[str, float] = field(default_factory=dict)
    """A lane's; the present one under the empty name."""
    workers: dict[str, float] = field(default_factory=dict)
    workers_expire: float = 0.0
    left_at: float = -math.inf
    unserved: float | None = None
    ended_at: float | None = None
    awake: float = -math.inf
    tickets: int = 0
    lost: list[Job] = field(default_factory=list)
    """Jobs whose records went while they waited: the room counts them until a sweep has found it out."""
    met_lost: bool = False
    """Somebody met one of them."""


@dataclass(slots=True)
class Kept:
    """A value with a lifetime."""

    value: str
    expires: float


@dataclass(slots=True)
class Turns:
    """Whose turn it is among the lanes, while a worker takes."""

    passes: dict[str, float]
    weights: dict[str, float]
    present: float | None = None
    clocks: dict[str, float] = field(default_factory=dict)

    def take(self, lane: str, tag: float) -> float:
        """Count a turn of a lane; returns its next pass."""
        self.present = self.passes[lane]
        self.passes[lane] += 1 / self.weights[lane]
        self.clocks[lane] = tag
        return self.passes[lane]


class Model:
    """The rooms. Each method is a script: it returns the reply that must come, and leaves what must then stand."""

    def __init__(self, models: Iterable[str]) -> None:
        self.now = 0.0
        self.ttl_now = 0.0
        """The moment from which Redis counts lifetimes: TIME may say a millisecond less or more."""
        self.rooms = {model: Room() for model in models}
        self.jobs: dict[str, Job] = {}
        self.logs: dict[str, Log] = {}
        self.bodies: dict[str, float] = {}
        self.idempotency: dict[str, Kept] = {}
        self.rates: dict[str, tuple[float, float]] = {}
        self.token_jobs: dict[str, dict[str, float]] = {}
        self.token_jobs_expire: dict[str, float] = {}
        self.owned: dict[str, set[str]] = {}
        self.owners: set[str] = set()
        self.alive: dict[str, float] = {}
        self.processes: dict[str, float] = {}
        self.singles: dict[str, Kept] = {}
        """sweeper, hold, run."""
        self.swept: float | None = None
        self.swept_expires = 0.0
        self.told: list[tuple[str, ...]] = []
        """What owners and workers must hear: (owner, job, nonce, number, event), and ("", job) for a cancel."""

    # What time does -----------------------------------------------------------------------------------------------

    def at(self, now: float, ttl_now: float) -> None:
        """Let it be so late; what has outlived its lifetime is gone."""
        self.now, self.ttl_now = now, ttl_now
        for job in [job for job in self.jobs.values() if job.expires <= ttl_now]:
            self._lose(job)
        self.logs = {name: log for name, log in self.logs.items() if log.expires > ttl_now}
        self.idempotency = {name: kept for name, kept in self.idempotency.items() if kept.expires > ttl_now}
        self.singles = {name: kept for name, kept in self.singles.items() if kept.expires > ttl_now}
        self.bodies = {name: until for name, until in self.bodies.items() if until > ttl_now}
        self.alive = {name: until for name, until in self.alive.items() if until > ttl_now}
        self.rates = {name: rate for name, rate in self.rates.items() if rate[1] > ttl_now}
        self.token_jobs_expire = {name: until for name, until in self.token_jobs_expire.items() if until > ttl_now}
        self.token_jobs = {name: ends for name, ends in self.token_jobs.items() if name in self.token_jobs_expire}
        for room in self.rooms.values():
            if room.awake <= ttl_now:
                room.awake = -math.inf
            if room.workers_expire <= ttl_now:
                room.workers.clear()

    def stands(self, until: float, given_ms: float) -> bool:
        """Say whether a key with a lifetime counts."""
        return 0 < until - self.ttl_now <= given_ms

    def stood_still(self) -> bool:
        """Say whether nobody is to be judged."""
        swept = self.now if self.swept is None else self.swept
        return swept > self.now or self.now - swept > STANDSTILL_MS

    def live(self, model: str, within: float = LIVE_WORKER_MS) -> int:
        """Return how many workers spoke lately."""
        return sum(self.now - within <= at <= self.now for at in self.rooms[model].workers.values())

    def push(self, model: str) -> None:
        """Push a ticket unless enough lie there."""
        room = self.rooms[model]
        if room.tickets < max(1, self.live(model)):
            room.tickets += 1

    def load(self, job_id: str) -> Job | None:
        """Return a job as scripts read it; an unreadable record goes."""
        job = self.jobs.get(job_id)
        if job is not None and not job.is_readable:
            self._lose(job)
            return None
        return job

    def _lose(self, job: Job) -> None:
        del self.jobs[job.id]
        if job.id in self.rooms[job.model].lanes[job.lane]:
            self.rooms[job.model].lost.append(job)

    # Lanes --------------------------------------------------------------------------------------------------------

    def _open_lane(self, job: Job) -> None:
        room = self.rooms[job.model]
        if not room.lanes[job.lane]:
            present = room.passes.get("", 0.0)
            if room.passes.get(job.lane, 0.0) < present:
                room.passes[job.lane] = present

    def _wait(self, job: Job, tag: float) -> None:
        room = self.rooms[job.model]
        room.lanes[job.lane][job.id] = tag
        room.waits[job.id] = job.deadline

    def _settle(self, job: Job, tokens: float) -> None:
        tags = self.rooms[job.model].tags[job.lane]
        if job.asked.tenant in tags:
            tags[job.asked.tenant] += tokens / job.asked.weight

    def _leave_room(self, job: Job) -> None:
        room = self.rooms[job.model]
        room.waits.pop(job.id, None)
        room.lanes[job.lane].pop(job.id, None)
        self._settle(job, -job.asked.cost)
        if not room.lanes[job.lane]:
            room.tags[job.lane].clear()

    def waiting(self, model: str, lane: str) -> int:
        """Return how many wait in a lane's room, against its limit."""
        room = self.rooms[model]
        batch = len(room.lanes["batch"])
        if lane != "batch":
            return len(room.waits) - batch
        return batch - self.counters(model)["batch:must_finish"]

    def counters(self, model: str) -> Counter[str]:
        """Reckon what a room counts: bytes, tokens, and the tenants' jobs under `@`."""
        out: Counter[str] = Counter()
        for job in self.counting(model):
            prefix = "batch:" if job.lane == "batch" else ""
            if not job.is_bounded:
                out["batch:must_finish"] += 1
                continue
            out[prefix + "bytes"] += job.asked.size
            if job.asked.max_queue_tokens > 0:
                out[prefix + "tokens"] += math.floor(job.asked.cost)
            out["@" + prefix + job.asked.tenant] += 1
        return out

    def counting(self, model: str) -> Iterator[Job]:
        """Return the jobs that a room must count: those that wait."""
        room = self.rooms[model]
        yield from room.lost
        for lane in LANES:
            yield from (self.jobs[job_id] for job_id in room.lanes[lane] if job_id in self.jobs)

    # Ends ---------------------------------------------------------------------------------------------------------

    def _leave_running(self, job: Job) -> None:
        room = self.rooms[job.model]
        room.running.pop(job.id, None)
        if job.lane == "batch":
            room.batch_running.discard(job.id)

    def _free(self, job: Job) -> None:
        job.has_spec = False
        if job.asked.apart:
            self.bodies.pop(job.id, None)

    def _holds_key(self, job: Job) -> bool:
        known = self.idempotency.get(job.asked.idempotency)
        return known is not None and known.value.split(" ")[0] == job.id

    def _finish(self, job: Job, keep_ms: int) -> None:
        self._free(job)
        self._leave_running(job)
        for owner in job.owners:
            self.owned.get(owner, set()).discard(job.id)
        self.token_jobs.get(job.asked.token, {}).pop(job.id, None)
        if self._holds_key(job):
            if keep_ms:
                self.idempotency[job.asked.idempotency].expires = self.ttl_now + keep_ms
            else:
                del self.idempotency[job.asked.idempotency]
        if keep_ms:
            job.state, job.expires = "ended", self.ttl_now + keep_ms
        else:
            self.jobs.pop(job.id, None)
            self.logs.pop(job.id, None)

    def _fail(self, job: Job, wire: str) -> None:
        if job.attempt:
            job.attempt = "0." + nonce_of(job.attempt)
        events = self.logs[job.id].events if job.id in self.logs else []
        self.logs[job.id] = Log([*events, FAILED + wire], self.ttl_now + KEEP_MS)
        self._tell(job, len(events), FAILED + wire)
        self._finish(job, KEEP_MS)

    def _tell(self, job: Job, number: int, payload: str) -> None:
        told = (job.id, nonce_of(job.attempt), str(number), payload)
        self.told += [(owner, *told) for owner in job.owners]

    def _wait_again(self, job: Job, tries: int) -> None:
        room, life = self.rooms[job.model], job.asked.life_ms
        self._leave_running(job)
        job.state, job.attempt, job.tries = "waiting", "", tries
        job.deadline, job.expires = self.now + KEEP_MS, self.ttl_now + life
        self._open_lane(job)
        self._wait(job, min(job.tag, room.tags[job.lane].get(":clock", 0.0)))
        if job.asked.apart and job.id in self.bodies:
            self.bodies[job.id] = self.ttl_now + life
        if self._holds_key(job):
            self.idempotency[job.asked.idempotency].expires = self.ttl_now + life
        token = job.asked.token
        if job.asked.concurrent_jobs and token in self.token_jobs:
            if job.id in self.token_jobs[token]:
                self.token_jobs[token][job.id] = self.now + life
            self.token_jobs_expire[token] = self.ttl_now + life + 1000

    # What an API process says ---------------------------------------------------------------------------------------

    def admit(self, asked: AdmitArguments) -> tuple[str, str]:
        """Return the verdict, and the id of a job that is joined."""
        verdict, joined = self._verdict(asked)
        if verdict not in ("ok", "again") and asked.apart and not asked.ask:
            self.bodies.pop(asked.id, None)
        if verdict == "ok" and not asked.ask:
            if asked.apart and asked.id not in self.bodies:
                return "late", ""
            self._accept(asked)
        return verdict, joined

    def _verdict(self, asked: AdmitArguments) -> tuple[str, str]:
        if self.now > asked.not_after:
            return "late", ""
        if asked.id in self.jobs:
            return "again", ""
        known = self.idempotency.get(asked.idempotency)
        if known is not None:
            first, body_hash = known.value.split(" ")
            job = self.load(first)
            if job is not None and not self._has_failed(job):
                if body_hash != asked.body_hash:
                    return "reused", ""
                if not job.is_cancelled:
                    if job.state != "ended" and asked.owner not in job.owners:
                        job.owners.append(asked.owner)
                        self.owned.setdefault(asked.owner, set()).add(first)
                    return "join", first
        return self._room_verdict(asked), ""

    def _has_failed(self, job: Job) -> bool:
        log = self.logs.get(job.id)
        return job.state == "ended" and log is not None and log.events[-1].startswith(FAILED)

    def _room_verdict(self, asked: AdmitArguments) -> str:
        if asked.requests_per_minute:
            step = 60_000 / asked.requests_per_minute
            if self._rate_clock(asked) + step - self.now > 60_000.5:
                return "rate"
        ends = self.token_jobs.get(asked.token, {}).values()
        if asked.concurrent_jobs and sum(end > self.now for end in ends) >= asked.concurrent_jobs:
            return "jobs"
        if not self._is_served(asked):
            return "no_worker"
        if asked.lane == "batch" and asked.must_finish:
            return "ok"
        ahead, open_slots, counts = self.waiting(asked.model, asked.lane), self._open(asked), self.counters(asked.model)
        prefix = "batch:" if asked.lane == "batch" else ""
        is_full = ahead >= asked.max_queue + open_slots
        if ahead >= open_slots:
            tokens, size = counts[prefix + "tokens"] + asked.cost, counts[prefix + "bytes"] + asked.size
            is_full = is_full or tokens > (asked.max_queue_tokens or math.inf)
            is_full = is_full or size > (asked.max_queue_bytes or math.inf)
        if is_full:
            return "full"
        return "share" if counts["@" + prefix + asked.tenant] >= asked.tenant_share + open_slots else "ok"

    def _rate_clock(self, asked: AdmitArguments) -> float:
        """Return the token's request clock; one set back keeps nobody waiting."""
        return min(max(self.rates.get(asked.token, (0, 0))[0], self.now), self.now + 60_000)

    def _is_served(self, asked: AdmitArguments) -> bool:
        if self.live(asked.model) or self.live(asked.model, asked.grace_ms):
            return True
        return 0 <= self.now - self.rooms[asked.model].left_at <= asked.grace_ms

    def _open(self, asked: AdmitArguments) -> int:
        room = self.rooms[asked.model]
        free = max(0, asked.concurrency - len(room.running))
        if asked.lane == "batch":
            free = max(0, min(free, asked.concurrency - asked.batch_reserve - len(room.batch_running)))
        return free

    def _accept(self, asked: AdmitArguments) -> None:
        room, now = self.rooms[asked.model], self.now
        job = Job(asked, now, [asked.owner], now + asked.max_wait_ms, self.ttl_now + asked.life_ms)
        open_slots = self._open(asked)
        self._open_lane(job)
        tags = room.tags[job.lane]
        job.tag = max(tags.get(":clock", 0.0), tags.get(asked.tenant, 0.0))
        tags[asked.tenant] = job.tag + asked.cost / asked.weight
        self.jobs[job.id] = job
        self._wait(job, job.tag)
        if asked.apart:
            self.bodies[job.id] = self.ttl_now + asked.life_ms
        if asked.requests_per_minute:
            self.rates[asked.token] = (self._rate_clock(asked) + 60_000 / asked.requests_per_minute, self.ttl_now + 120_000)
        if asked.concurrent_jobs:
            of_token = {name: end for name, end in self.token_jobs.get(asked.token, {}).items() if end > now}
            self.token_jobs[asked.token] = {**of_token, job.id: now + asked.life_ms}
            self.token_jobs_expire[asked.token] = self.ttl_now + asked.life_ms + 1000
        if asked.idempotency:
            self.idempotency[asked.idempotency] = Kept(f"{job.id} {asked.body_hash}", self.ttl_now + asked.life_ms)
        self.owned.setdefault(asked.owner, set()).add(job.id)
        if open_slots > 0 and not self.stands(room.awake, PROMISE_MS):
            self.push(asked.model)

    def cancel(self, owner: str, job_id: str) -> str:
        """Take an owner out of one job."""
        job = self.load(job_id)
        if job is None:
            self.bodies.pop(job_id, None)
            return "n"
        if job.state == "ended" or owner not in job.owners:
            return "n"
        if job.owners != [owner]:
            job.owners.remove(owner)
            self.owned[owner].discard(job_id)
            return "o"
        if job.state == "waiting":
            self._leave_room(job)
            self._finish(job, 0)
            return "w"
        self._free(job)
        job.is_cancelled = True
        self.told.append(("", job_id))
        return "r"

    def forget(self, owner: str, job_id: str) -> int:
        """Drop an ended job."""
        job = self.jobs.get(job_id)
        if job is None or job.state != "ended" or job.owners != [owner]:
            return 0
        del self.jobs[job_id]
        self.logs.pop(job_id, None)
        return 1

    def beat(self, owner: str, process: str, life_ms: int, *, gone: bool) -> None:
        """Hear an API process."""
        if gone:
            self.alive.pop(owner, None)
            self.processes.pop(process, None)
        else:
            self.alive[owner] = self.ttl_now + life_ms
            self.owners.add(owner)
            self.processes[process] = self.now

    # What a worker says ----------------------------------------------------------------------------------------------

    def is_heard(self, job: Job, *, judged: bool) -> bool:
        """Say whether anybody still waits for a job."""
        return not job.owners or job.must_finish or not judged or any(owner in self.alive for owner in job.owners)

    def take(self, asked: TakeArguments) -> tuple[list[str], bool]:
        """Return the ids that must be taken, in order, and whether more could be."""
        room = self.rooms[asked.model]
        if not room.waits:
            self._promise(room, asked)
            return [], False
        hold = self.singles.get("hold")
        if hold is not None and self.stands(hold.expires, asked.lease_ms):
            return [], False
        n = min(asked.free_slots, asked.concurrency - len(room.running))
        if n > 0 and not asked.surplus:
            n = min(n, math.ceil(asked.concurrency / max(1, self.live(asked.model))) - asked.mine)
        turns = Turns({lane: room.passes.get(lane, 0.0) for lane in LANES}, weights_of(asked))
        taken = self._take_jobs(room, asked, turns, n)
        if turns.present is not None:
            room.passes[""] = turns.present
            is_shut = len(room.batch_running) + asked.batch_reserve >= asked.concurrency
            if turns.passes["batch"] < turns.present and is_shut:
                room.passes["batch"] = turns.present
        for lane, tag in turns.clocks.items():
            room.tags[lane][":clock"] = tag
        more = len(room.running) < asked.concurrency and self._next_lane(asked, turns.passes) is not None
        if not more:
            self._promise(room, asked)
        elif room.awake > self.ttl_now:
            room.awake = -math.inf
            self.push(asked.model)
        return taken, more

    def _take_jobs(self, room: Room, asked: TakeArguments, turns: Turns, n: int) -> list[str]:
        taken, bulk = list[str](), 0
        while len(taken) < n and (lane := self._next_lane(asked, turns.passes)):
            job_id, tag = min(room.lanes[lane].items(), key=lambda pair: (pair[1], pair[0]))
            job = self.load(job_id)
            if job is not None and job.asked.apart:
                bulk += job.asked.size
                if bulk > asked.bulk_bytes and job.deadline > self.now:
                    room.waits[job_id] = job.deadline
                    break
            del room.lanes[lane][job_id]
            room.waits.pop(job_id, None)
            if job is None:
                room.met_lost = True
            elif not self._is_dropped(job, asked):
                self._run(job, asked)
                taken.append(job_id)
                room.passes[lane] = turns.take(lane, tag)
            if not room.lanes[lane]:
                room.tags[lane].clear()
                turns.clocks.pop(lane, None)
        return taken

    def _is_dropped(self, job: Job, asked: TakeArguments) -> bool:
        is_heard = self.is_heard(job, judged=not self.stood_still())
        if is_heard and job.deadline > self.now:
            return False
        self._settle(job, -job.asked.cost)
        if is_heard:
            self._fail(job, str(asked.timeout_wire))
        else:
            self._finish(job, 0)
        return True

    def _promise(self, room: Room, asked: TakeArguments) -> None:
        if asked.awake_ms:
            room.awake = self.ttl_now + asked.awake_ms

    def _next_lane(self, asked: TakeArguments, passes: dict[str, float]) -> str | None:
        room = self.rooms[asked.model]
        is_open = len(room.batch_running) + asked.batch_reserve < asked.concurrency or asked.batch_reserve == 0
        open_lanes = [lane for lane in LANES if room.lanes[lane] and (lane != "batch" or is_open)]
        return min(open_lanes, key=lambda lane: passes[lane], default=None)

    def _run(self, job: Job, asked: TakeArguments) -> None:
        room = self.rooms[job.model]
        job.state, job.tries = "running", job.tries + 1
        job.attempt = f"{job.tries}.{asked.nonce}"
        room.running[job.id] = self.now + asked.lease_ms
        if job.lane == "batch":
            room.batch_running.add(job.id)

    def append(self, job_id: str, attempt: str, number: int, ending: float | None, payloads: Sequence[str]) -> str:
        """Store events of one job; `ending` is what it cost."""
        job = self.jobs.get(job_id)
        if job is None:
            return "u"
        if job.attempt != attempt:
            return "s"
        if job.state == "ended":
            return "s" if ending is None else "o"
        if job.is_cancelled:
            return "c"
        log = self.logs.get(job_id)
        known = list(log.events) if log else []
        if number > len(known):
            return "g"
        if ending is not None and self.load(job_id) is None:
            return "u"
        fresh = payloads[len(known) - number :]
        for at, payload in enumerate(fresh, len(known)):
            self._tell(job, at, payload)
        if fresh and log is None:
            self.logs[job_id] = Log([*fresh], self.ttl_now + max(60_000, job.expires - self.ttl_now))
        elif log is not None:
            log.events += fresh
        if ending is None:
            return "o"
        self.logs[job_id].expires = self.ttl_now + KEEP_MS
        self._finish(job, KEEP_MS)
        self._settle(job, ending - job.asked.cost)
        self.rooms[job.model].ended_at = self.now
        return "w" if self.rooms[job.model].waits else "o"

    def release(self, worker: str, job_id: str, attempt: str, how: str, wire: str) -> str:
        """Give one job up."""
        job = self.load(job_id)
        if job is None:
            return "u"
        letter = "s"
        if job.attempt == attempt and job.state == "running":
            letter = self._released(worker, job, how, wire)
            if letter in "ef":
                self.rooms[job.model].ended_at = self.now
        if self.rooms[job.model].waits:
            self.push(job.model)
        return letter

    def _released(self, worker: str, job: Job, how: str, wire: str) -> str:
        if job.is_cancelled or how == "end":
            self._finish(job, 0)
            return "e"
        if how == "away":
            if job.id in self.logs:
                return "p"
            seen = self.rooms[job.model].workers.get(worker, -math.inf)
            if self.live(job.model) - (self.now - LIVE_WORKER_MS <= seen <= self.now) <= 0:
                return "n"
            self._wait_again(job, max(0, job.tries - 1))
            return "b"
        if how == "again" and job.id not in self.logs and job.tries < job.asked.max_tries:
            self._wait_again(job, job.tries)
            return "b"
        self._fail(job, wire)
        return "f"

    def renew(
        self, worker: str, process: str, lease_ms: int, models: Sequence[str], held: Sequence[tuple[str, str]]
    ) -> list[str]:
        """Return what the worker must hear: a digit a model, then id, attempt, reason."""
        self.processes[process] = self.now
        for model in models:
            room = self.rooms[model]
            room.workers[worker] = self.now
            room.workers = {name: at for name, at in room.workers.items() if at > self.now - 60_000}
            room.workers_expire = self.ttl_now + 60_000
        judged = not self.stood_still()
        digits = (bool(self.rooms[model].waits) + 2 * (self.rooms[model].tickets > 0) for model in models)
        out = ["".join(map(str, digits))]
        for job_id, attempt in held:
            job = self.load(job_id)
            reason = "" if job is not None else "u"
            if job is not None:
                if job.attempt != attempt or job.state != "running":
                    reason = "s"
                elif job.is_cancelled:
                    reason = "c"
                elif not self.is_heard(job, judged=judged):
                    reason = "o"
                if reason in ("", "c", "o"):
                    self.rooms[job.model].running[job_id] = self.now + lease_ms
            if reason:
                out += [job_id, attempt, reason]
        return out

    def leave(self, worker: str, process: str, models: Sequence[str]) -> None:
        """Hear a worker go."""
        self.processes.pop(process, None)
        for model in models:
            if self.rooms[model].workers.pop(worker, None) is not None:
                self.rooms[model].left_at = self.now

    # What everybody says ---------------------------------------------------------------------------------------------

    def hello(self, process: str, run_id: str, *, knew_another: bool, lease_ms: int) -> None:
        """Hear a process begin, or meet another server."""
        self.processes = {name: at for name, at in self.processes.items() if at > self.now - 60_000}
        self.processes[process] = self.now
        run = self.singles.get("run")
        if (run is not None and run.value != run_id) or (run is None and knew_another):
            self.singles["hold"] = Kept("1", self.ttl_now + lease_ms)
        self.singles["run"] = Kept(run_id, self.ttl_now + DAY_MS)

    def sweep(self, asked: SweepArguments, rows: Sequence[SweepRow], owners: Sequence[str]) -> list[int] | None:
        """Return what must be counted: reclaimed, expired, orphaned, tickets; None where another sweeps.

        `owners` are all, in the order in which they are looked at: of two dead ones the last counts a job.
        """
        sweeper = self.singles.get("sweeper")
        if sweeper is not None and self.stands(sweeper.expires, asked.period_ms):
            return None
        self.singles["sweeper"] = Kept(asked.sweeper, self.ttl_now + math.floor(asked.period_ms * 0.9))
        still = self.stood_still()
        self.swept, self.swept_expires = self.now, self.ttl_now + DAY_MS
        self.processes = {name: at for name, at in self.processes.items() if at > self.now - 60_000}
        did = [0, 0, 0, 0]
        for owner in owners:
            self._sweep_owner(owner, still, did)
        for row in rows:
            self._sweep_leases(asked, row, still, did)
            self._sweep_waits(asked, row, still, did)
        return did

    def _sweep_owner(self, owner: str, still: bool, did: list[int]) -> None:
        if still:
            self.alive[owner] = self.ttl_now + OWNER_MS
        elif owner in self.alive:
            self.alive[owner] = min(self.alive[owner], self.ttl_now + OWNER_MS)
        else:
            for job_id in sorted(self.owned.get(owner, ())):
                self._orphan(owner, job_id, did)
            if not self.owned.get(owner):
                self.owners.discard(owner)

    def _orphan(self, owner: str, job_id: str, did: list[int]) -> None:
        job = self.load(job_id)
        if job is None or job.state == "ended":
            self.owned[owner].discard(job_id)
        elif job.must_finish or [name for name in job.owners if name != owner]:
            self.owned[owner].discard(job_id)
            job.owners = [name for name in job.owners if name != owner]
        elif job.state == "waiting":
            self._leave_room(job)
            self._finish(job, 0)
            did[2] += 1
        else:
            job.is_cancelled = True
            self.told.append(("", job_id))
            did[2] += 1

    def _sweep_leases(self, asked: SweepArguments, row: SweepRow, still: bool, did: list[int]) -> None:
        room, limit = self.rooms[row.model], self.now + asked.lease_ms
        if still:
            room.running = dict.fromkeys(room.running, limit)
            room.workers = {name: min(at, self.now) for name, at in room.workers.items()}
            return
        room.running = {name: min(at, limit) for name, at in room.running.items()}
        late = sorted((at, name) for name, at in room.running.items() if at <= self.now)
        for _, job_id in late:
            job = self.load(job_id)
            did[0] += 1
            if job is None or job.state != "running":
                room.running.pop(job_id)
                room.batch_running.discard(job_id)
            elif job.is_cancelled:
                self._finish(job, 0)
            elif job_id in self.logs:
                self._fail(job, str(asked.lost_wire))
            elif job.tries >= job.asked.max_tries:
                self._fail(job, str(asked.exhausted_wire))
            else:
                self._wait_again(job, job.tries)

    def _sweep_waits(self, asked: SweepArguments, row: SweepRow, still: bool, did: list[int]) -> None:
        room = self.rooms[row.model]
        limit = self.now + max(row.max_wait_ms, KEEP_MS)
        room.waits = {name: min(at, limit) for name, at in room.waits.items()}
        late = sorted((at, name) for name, at in room.waits.items() if at <= self.now)
        self._give_up(room, [name for _, name in late], str(asked.timeout_wire), did)
        if room.met_lost:
            for lane, ids in room.lanes.items():
                if not ids:
                    room.tags[lane].clear()
                for job_id in ids:
                    self.load(job_id)
            room.met_lost = False
            room.lost.clear()
        if not room.waits or still:
            room.unserved = None
            return
        heard = max([room.left_at, *room.workers.values()])
        if self.now - heard > asked.grace_ms:
            self._unserved(room, asked, did)
            return
        room.unserved = None
        if len(room.running) < row.concurrency and room.tickets < min(max(1, self.live(row.model)), len(room.waits)):
            self.push(row.model)
            did[3] += 1

    def _unserved(self, room: Room, asked: SweepArguments, did: list[int]) -> None:
        if room.unserved is None:
            room.unserved = self.now
        else:
            self._give_up(
                room, sorted(room.waits, key=lambda name: (room.waits[name], name)), str(asked.no_worker_wire), did
            )

    def _give_up(self, room: Room, ids: Sequence[str], wire: str, did: list[int]) -> None:
        for job_id in ids:
            job = self.load(job_id)
            if job is not None and job.state == "waiting":
                self._leave_room(job)
                self._fail(job, wire)
                did[1] += 1
            else:
                room.waits.pop(job_id, None)
                room.met_lost = True
                for lane in LANES:
                    room.lanes[lane].pop(job_id, None)


def nonce_of(attempt: str) -> str:
    """Return what tells one run of a job from another."""
    return attempt[-NONCE_BYTES:] if len(attempt) > NONCE_BYTES else NO_NONCE


def weights_of(asked: TakeArguments) -> dict[str, float]:
    """Return the lanes' weights."""
    weights = (asked.weight_priority, asked.weight_default, asked.weight_flex, asked.weight_batch)
    return dict(zip(LANES, weights, strict=True))
