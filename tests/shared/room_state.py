"""What the model of the waiting rooms keeps: jobs, who waits, who lives; and what time, lanes and ends do to it.

Every counter is reckoned anew from the jobs at each look, so a script that counts wrongly differs at once. Times are
the model's own: the moment at which a step ran, on a clock that counts all the time that was let pass.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shared.protocol import DAY_MS, KEEP_MS, LIVE_WORKER_MS, NO_NONCE, NONCE_BYTES, STANDSTILL_MS, STORED
from shared.room.scripts import AdmitArguments, LimitRow, TakeArguments
from tests.shared.room_groups import charge, join, part
from tests.shared.room_limits import ADMIT_LIMITS
from tests.shared.room_windows import Limits

LANES: Final = ("priority", "default", "flex", "batch")
FAILED: Final = "E"
UNCOUNTED: Final = "c"
"""The token whose usage nobody counts."""


def is_line(sink: str) -> bool:
    """Say whether a job with this sink is a batch's line."""
    return sink not in ("", STORED)


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
    stopped: str = ""
    """What an operator has whoever waits for it told, once its worker lets go."""
    taken: float | None = None
    """When, where that counts."""
    has_spec: bool = True
    is_readable: bool = True
    rows: tuple[LimitRow, ...] = ()
    """Its limits."""
    seconds: dict[str, int] = field(default_factory=dict)
    """In which second of a subject's window it counts."""
    used: float | None = None
    """Tokens, where its end tells them."""

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
    def group(self) -> str:
        """Its tenant's group, by its lane; empty for none."""
        return f"{self.asked.lane}:{self.asked.group}" if self.asked.group else ""

    @property
    def sink(self) -> str:
        """Who hears of its end."""
        return self.asked.sink

    @property
    def is_line(self) -> bool:
        """It is a batch's."""
        return is_line(self.sink)

    @property
    def keep_ms(self) -> int:
        """How long its end is kept."""
        return DAY_MS if self.sink else KEEP_MS

    @property
    def must_finish(self) -> bool:
        """It ends by itself, whoever leaves."""
        return self.asked.must_finish == "1"

    @property
    def is_bounded(self) -> bool:
        """Its room's limits hold for it."""
        return self.lane != "batch" or not self.must_finish or self.sink == STORED


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
    groups: dict[str, float] = field(default_factory=dict)
    """Of which somebody waits, or did, as `<lane>:<group>`: its weight."""
    members: dict[str, dict[str, float]] = field(default_factory=dict)
    """Of each of these: who waits, by tag."""
    member_tags: dict[str, dict[str, float]] = field(default_factory=dict)
    is_grouped: bool = False
    passes: dict[str, float] = field(default_factory=dict)
    """A lane's; the present one under the empty name."""
    workers: dict[str, float] = field(default_factory=dict)
    workers_expire: float = 0.0
    left_at: float = -math.inf
    unserved: float | None = None
    ended_at: float | None = None
    awake: float = -math.inf
    held: bool = False
    """No backend is there: nothing is taken."""
    tickets: int = 0
    lost: list[Job] = field(default_factory=list)
    """Jobs whose records went while they waited: the room counts them until a sweep has found it out."""
    state: str = "active"
    """What an operator has set."""
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
        if tag != math.inf:  # of a group whose head was lost: it stood in no order yet
            self.clocks[lane] = tag
        return self.passes[lane]


class Rooms(Limits):
    """Everything that is stored, and what happens to it whoever asked: time, lanes, ends."""

    def __init__(self, models: Iterable[str]) -> None:
        super().__init__()
        self.now = 0.0
        self.ttl_now = 0.0
        """The moment from which Redis counts lifetimes: TIME may say a millisecond less or more."""
        self.rooms = {model: Room() for model in models}
        self.jobs: dict[str, Job] = {}
        self.logs: dict[str, Log] = {}
        self.bodies: dict[str, float] = {}
        self.idempotency: dict[str, Kept] = {}
        self.results: dict[str, tuple[list[str], float]] = {}
        """Of each batch: its ended lines, oldest first, and until when they are kept."""
        self.owned: dict[str, set[str]] = {}
        self.owners: set[str] = set()
        self.alive: dict[str, float] = {}
        self.processes: dict[str, float] = {}
        self.singles: dict[str, Kept] = {}
        """sweeper, hold, run."""
        self.swept: float | None = None
        self.swept_expires = 0.0
        self.was_set_back = False
        """The sweep that runs is the first after the clock was set back."""
        self.usage: dict[str, list[float]] = {}
        """By token, group, model, lane and kind: what was counted, in the order of the counters."""
        self.accepted = 0
        self.vanished = 0
        """Jobs whose records went before they ended: nobody can count them."""
        self.told: list[tuple[str, ...]] = []
        """What must be heard: (owner, job, nonce, number, event), ("", job) for a cancel, ("crowd", word)."""

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
        self.limits_at(ttl_now)
        self.results = {name: kept for name, kept in self.results.items() if kept[1] > ttl_now}
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
        return sum(at >= self.now - within for at in self.rooms[model].workers.values())

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
        self.vanished += job.state != "ended" and job.asked.tenant != UNCOUNTED
        if job.id in self.rooms[job.model].lanes[job.lane]:
            self.rooms[job.model].lost.append(job)

    # Lanes --------------------------------------------------------------------------------------------------------

    def open_lane(self, job: Job) -> None:
        room = self.rooms[job.model]
        if not room.lanes[job.lane]:
            present = room.passes.get("", 0.0)
            if room.passes.get(job.lane, 0.0) < present:
                room.passes[job.lane] = present

    def tags_of(self, job: Job) -> dict[str, float]:
        """Return where a job's tenant has its tags."""
        room = self.rooms[job.model]
        return room.member_tags.setdefault(job.group, {}) if job.group else room.tags[job.lane]

    def wait(self, job: Job, tag: float, *, was_first: bool = False) -> None:
        room = self.rooms[job.model]
        if job.group:
            join(room, job, tag, was_first=was_first)
        else:
            room.lanes[job.lane][job.id] = tag
        room.waits[job.id] = job.deadline

    def settle(self, job: Job, tokens: float, *, was_waiting: bool = False) -> None:
        if job.group and not was_waiting:
            charge(self.rooms[job.model], job, tokens)
        tags, tenant = self.tags_of(job), job.asked.tenant
        if tenant in tags:
            moved = tokens / job.asked.weight
            finish = tags[tenant] + tags.get(f":owed:{tenant}", 0.0) + moved
            self.set_finish(tags, job, finish, tags[f":last:{tenant}"] + (moved if was_waiting else 0))

    @staticmethod
    def set_finish(tags: dict[str, float], job: Job, finish: float, last: float) -> None:
        """Charge a tenant; what would put it less than a token behind its last job is owed."""
        tenant, least = job.asked.tenant, last + 1 / job.asked.weight
        tags[tenant] = max(finish, least)
        tags[f":last:{tenant}"] = last
        if finish < least or f":owed:{tenant}" in tags:
            tags[f":owed:{tenant}"] = min(0.0, finish - least)

    def wait_in_front(self, job: Job) -> None:
        """Let a job wait that was first in line once."""
        self.wait(job, min(job.tag, self.tags_of(job).get(":clock", 0.0)), was_first=True)

    def leave_room(self, job: Job) -> None:
        room = self.rooms[job.model]
        room.waits.pop(job.id, None)
        place = room.lanes[job.lane].pop(job.id, None)
        if job.group and place is not None:
            part(room, job, place, 0, self.now)
        self.settle(job, -job.asked.cost, was_waiting=True)
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
            if ADMIT_LIMITS[job.model].max_queue_tokens > 0:
                out[prefix + "tokens"] += math.floor(job.asked.cost)
            out["@" + prefix + share_of(job.asked)] += 1
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

    def free(self, job: Job) -> None:
        job.has_spec = False
        if job.asked.apart:
            self.bodies.pop(job.id, None)

    def _holds_key(self, job: Job) -> bool:
        known = self.idempotency.get(job.asked.idempotency)
        return known is not None and known.value.split(" ")[0] == job.id

    def count(self, job: Job, outcome: str, told: dict[str, Any]) -> None:
        """Count what a job has used that ends now; `told` is what its worker says of its end."""
        ran = job.state == "running"
        usage = told.get("usage") or {}
        prompt, completion = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
        # No event of these runs bears any text.
        is_guessed = ran and outcome != "failed" and (told.get("cut", False) or not usage)
        guess = math.floor(job.asked.size / 4) if is_guessed else 0
        since = job.taken if ran and job.taken is not None else self.now
        held = max(0, self.now - since) if ran else 0
        self.add_usage(job, [
            1, outcome == "failed", outcome == "cancelled", guess > 0, prompt + guess, 0, completion, 0, guess, 0,
            max(0, since - job.admitted), told.get("run_ms", held), held,
        ])  # fmt: skip

    def add_usage(self, job: Job, used: Sequence[float]) -> None:
        if job.asked.tenant == UNCOUNTED:
            return
        field_name = f"{job.asked.tenant} {job.asked.group or '-'} {job.model} {job.lane} {job.asked.kind}"
        known = self.usage.get(field_name, [0] * len(used))
        self.usage[field_name] = [old + new for old, new in zip(known, used, strict=True)]

    def cancelled(self, job: Job, told: dict[str, Any] | None = None) -> None:
        """End a job for which nobody waits: nothing of it stays."""
        self.count(job, "cancelled", told or {})
        self.finish(job, 0)

    def finish(self, job: Job, keep_ms: int) -> None:
        self.settle_limits(job, len(self.logs[job.id].events) if job.id in self.logs else 0)
        if not keep_ms or job.sink != STORED:
            self.free(job)
        elif job.asked.apart and job.id in self.bodies:
            self.bodies[job.id] = self.ttl_now + keep_ms
        self._leave_running(job)
        for owner in job.owners:
            self.owned.get(owner, set()).discard(job.id)
        if self._holds_key(job):
            if keep_ms:
                self.idempotency[job.asked.idempotency].expires = self.ttl_now + keep_ms
            else:
                del self.idempotency[job.asked.idempotency]
        if keep_ms:
            job.state, job.expires = "ended", self.ttl_now + keep_ms
            if job.sink:
                known = self.results.get(job.sink, ([], 0.0))[0]
                self.results[job.sink] = ([*known, job.id], self.ttl_now + DAY_MS)
        else:
            self.jobs.pop(job.id, None)
            self.logs.pop(job.id, None)

    def fail(self, job: Job, wire: str, outcome: str = "failed", told: dict[str, Any] | None = None) -> None:
        self.count(job, outcome, told or {})
        if job.attempt:
            job.attempt = "0." + nonce_of(job.attempt)
        events = self.logs[job.id].events if job.id in self.logs else []
        if not events and outcome != "cancelled":
            job.used = 0
        self.logs[job.id] = Log([*events, FAILED + wire], self.ttl_now + job.keep_ms)
        self.tell(job, len(events), FAILED + wire)
        self.finish(job, job.keep_ms)

    def end_cancelled(self, job: Job, told: dict[str, Any] | None = None) -> bool:
        """End a job that its worker has let go; returns whether somebody was told."""
        if job.is_cancelled and job.stopped:
            self.fail(job, job.stopped, "cancelled", told)
            return True
        self.cancelled(job, told)
        return False

    def tell(self, job: Job, number: int, payload: str) -> None:
        told = (job.id, nonce_of(job.attempt), str(number), payload)
        self.told += [(owner, *told) for owner in job.owners]

    def wait_again(self, job: Job, tries: int, *, keeps_deadline: bool = False) -> None:
        room, life = self.rooms[job.model], ADMIT_LIMITS[job.model].life_ms
        self._leave_running(job)
        held = max(0, self.now - (self.now if job.taken is None else job.taken))
        if held:
            self.add_usage(job, [*[0] * 12, held])
        job.state, job.attempt, job.tries = "waiting", "", tries
        if not keeps_deadline or job.is_line:
            job.deadline = math.inf if job.is_line else self.now + KEEP_MS
        job.expires = self.ttl_now + life
        self.open_lane(job)
        if job.group:
            charge(room, job, -job.asked.cost)
        self.wait_in_front(job)
        if job.asked.apart and job.id in self.bodies:
            self.bodies[job.id] = self.ttl_now + life
        if self._holds_key(job):
            self.idempotency[job.asked.idempotency].expires = self.ttl_now + life
        self.limits_wait_again(job)


def share_of(asked: AdmitArguments) -> str:
    """Return who fills a share of the room."""
    return "/" + asked.group if asked.group else asked.tenant


def nonce_of(attempt: str) -> str:
    """Return what tells one run of a job from another."""
    return attempt[-NONCE_BYTES:] if len(attempt) > NONCE_BYTES else NO_NONCE


def weights_of(asked: TakeArguments) -> dict[str, float]:
    """Return the lanes' weights."""
    weights = (asked.weight_priority, asked.weight_default, asked.weight_flex, asked.weight_batch)
    return dict(zip(LANES, weights, strict=True))
