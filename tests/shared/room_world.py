"""The processes of one random run: each step in, a comparison of Redis with the model out.

A step is a name and a number; whatever else it needs is drawn from that number among what there is at that moment. So
steps can be dropped and the others still mean something, which is what makes a failure small.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from shared import keys
from shared.protocol import BY_OPERATOR, KEEP_MS, OWNER_MS, PROMISE_S, STORED
from shared.room.facts import with_facts
from shared.room.limits import budget_rows
from shared.room.scripts import (
    ACKNOWLEDGE,
    ADMIT,
    APPEND,
    AWAY,
    BACK,
    BEAT,
    CANCEL,
    DROP,
    END_JOBS,
    FORGET,
    HEAR,
    HELLO,
    LEAVE,
    MAKE_ROOM,
    MOVE_JOBS,
    PEEK,
    RELEASE,
    RENEW,
    RESULTS,
    SET_MODEL,
    SWEEP,
    TAKE,
    AdmitArguments,
    AwayArguments,
    BackArguments,
    BatchArguments,
    BeatArguments,
    EndJobsArguments,
    ForgetArguments,
    HearArguments,
    HelloArguments,
    LeaveArguments,
    LimitRow,
    MakeRoomArguments,
    MoveJobsArguments,
    NoArguments,
    OwnerArguments,
    PeekArguments,
    ReleaseArguments,
    RenewArguments,
    ResultsArguments,
    SetModelArguments,
    SweepArguments,
    SweepRow,
    TakeArguments,
)
from shared.scripting import flag
from tests.shared.room_cast import (
    APIS,
    BATCHES,
    CUTS,
    ENDINGS,
    LEASE_MS,
    PERIOD_MS,
    TENANTS,
    WORKERS,
    Broken,
    Held,
    Sent,
    Step,
    event,
)
from tests.shared.room_limits import ADMIT_LIMITS, GRACE_MS, MODELS, TICKET
from tests.shared.room_model import Model
from tests.shared.room_probe import Probe, Seen, Snapshot
from tests.shared.room_state import LANES, UNCOUNTED, nonce_of
from tests.shared.room_views import broken_rules, differences, heard

Drawn = TypeVar("Drawn")


@dataclass(slots=True)
class World:
    """The processes of one run, and the model beside Redis."""

    probe: Probe
    model: Model = field(default_factory=lambda: Model(MODELS))
    held: dict[str, list[Held]] = field(default_factory=lambda: {worker: [] for worker in WORKERS})
    moved: int = 0
    """How much time was let pass."""
    seconds_moved: int = 0
    """The same, as windows of whole seconds know it."""
    made: int = 0
    """Ids, nonces and servers made so far."""
    runs: int = 0
    """Which server this is: each failover brings another."""
    seen_ids: list[str] = field(default_factory=list)
    snapshot: tuple[Snapshot, Model, int] | None = None
    hung: dict[str, float] = field(default_factory=dict)
    """Workers that hang, and until when."""
    held_back_until: float = -math.inf
    """Within a lease after a failover more may run than is allowed."""

    def begin(self) -> None:
        """Empty Redis; everybody says hello."""
        self.probe.command("FLUSHDB")
        for process in (*APIS, *WORKERS):
            self._hello(process)

    def do(self, step: Step) -> None:
        """Take a step; raises Broken."""
        getattr(self, step.name)(Random(step.number))

    # How a step is judged ------------------------------------------------------------------------------------------

    def _ran(self, seen: Seen) -> None:
        self.model.second, self.model.real_ms = seen.now // 1000 + self.seconds_moved, seen.now
        self.model.at(seen.now + self.moved, seen.ttl_now + self.moved)

    def compare(self, seen: Seen, got: object = None, expected: object = None) -> None:
        self._ran(seen)
        if got != expected:
            raise Broken(f"replied {got!r}, where the model says {expected!r}")
        told, self.model.told = self.model.told, []
        if sorted(told) != sorted(heard(seen)):
            raise Broken(f"told {sorted(heard(seen))}, where the model says {sorted(told)}")
        problems = differences(self.model, seen, self.moved) or broken_rules(seen, MODELS)
        if problems:
            raise Broken("; ".join(problems[:6]))
        self._count_slots()

    def _count_slots(self) -> None:
        """Check that no more jobs of a model are truly in workers' hands than its concurrency."""
        if self.model.now <= self.held_back_until:
            return
        for model, limits in MODELS.items():
            busy = [held.id for of_worker in self.held.values() for held in of_worker
                    if held.model == model and held.until > self.model.now and not held.has_ended]  # fmt: skip
            if len(busy) > limits.concurrency:
                raise Broken(f"{len(busy)} jobs of {model} run at once: {busy}")

    def _id(self) -> str:
        self.made += 1
        return f"{self.made:032x}"

    def _nonce(self) -> str:
        self.made += 1
        return f"{self.made:012x}"

    # API processes ---------------------------------------------------------------------------------------------------

    def admit(self, draw: Random) -> None:
        """Some API process has a job accepted, or joins one."""
        model, tenant = draw.choice([*MODELS]), draw.choice([*TENANTS])
        limits, token = MODELS[model], TENANTS[tenant]
        has_key, is_large = draw.random() < 0.25, draw.random() < 0.2
        lane = draw.choice(LANES)
        job_id = draw.choice([*self.model.jobs]) if self.model.jobs and draw.random() < 0.03 else self._id()
        body = b"" if is_large else b"b" * draw.choice((1, 20, 60))
        asked = AdmitArguments(
            id=job_id, model=model, lane=lane, tenant=tenant, weight=token.weight,
            cost=draw.choice((16, 64, 256, 1024, 2.5)), body=body, apart=flag(is_large),
            size=100 if is_large else len(body) + 4, spec=b"spec", owner=draw.choice(APIS),
            must_finish=(must_finish := flag(draw.random() < 0.2)), ask="",
            max_wait_ms=draw.choice((limits.max_wait_ms, 4_000)),
            not_after=10**15 if draw.random() < 0.97 else 1,
            promised_to=f"{tenant}:{draw.randrange(3)}", is_retry=flag(draw.random() < 0.5),
            idempotency=f"k{draw.randrange(3)}" if has_key else "",
            body_hash=f"h{draw.random() < 0.1:d}" if has_key else "",
            sink=STORED if must_finish else "",
            at_once=flag(lane == "flex" and tenant == "c"), group=token.group, group_weight=token.group_weight,
            kind=draw.choice(("chat.completions", "embeddings")),
        )  # fmt: skip
        if is_large:
            if self._admit(asked._replace(ask="1"), token.rows) != "ok" and draw.random() < 0.8:
                return
            if draw.random() < 0.95:
                seen = self.probe.say("SET", keys.body(job_id), "large", "PX", 60_000)
                self._ran(seen)
                self.model.bodies[job_id] = self.model.ttl_now + 60_000
        self._admit(asked, token.rows)

    def admit_line(self, draw: Random) -> None:
        """A feeder has a line of its batch accepted, or one that is there already."""
        model, tenant = draw.choice([*MODELS]), draw.choice([*TENANTS])
        lines = [job.id for job in self.model.jobs.values() if job.is_line]
        job_id = draw.choice(lines) if lines and draw.random() < 0.2 else self._id()
        self._admit(AdmitArguments(
            id=job_id, model=model, lane="batch", tenant=tenant, weight=TENANTS[tenant].weight,
            cost=draw.choice((16, 64)), body=b"b", apart="", size=5, spec=b"spec", owner="", must_finish="1", ask="",
            max_wait_ms=0, not_after=10**15, promised_to="", is_retry="", idempotency="",
            body_hash="", sink=draw.choice(BATCHES), at_once="", group=TENANTS[tenant].group,
            group_weight=TENANTS[tenant].group_weight,
        ), budget_rows(TENANTS[tenant].rows))  # fmt: skip

    def results(self, draw: Random) -> None:
        """A feeder reads what its sink holds, and acknowledges some of it, and what is no result."""
        batch = draw.choice(BATCHES)
        seen = self.probe.run(RESULTS, ResultsArguments(batch, start := draw.randrange(3), 5, 10**6))
        self._ran(seen)
        wanted = self.model.results.get(batch, ([], 0.0))[0][start : start + 5]
        got = [[part.decode() for part in row] for row in seen.reply]
        self.compare(seen, got, [[name, *(self.model.logs[name].events if name in self.model.logs else ())]
                                 for name in wanted])  # fmt: skip
        ids = [name for name in wanted if draw.random() < 0.7] + self._some_ids(draw)[:1]
        ids = [name for name in ids if name not in self.model.jobs or self.model.jobs[name].sink in ("", batch)]
        seen = self.probe.run(ACKNOWLEDGE, BatchArguments(batch, 0), [(name,) for name in ids])
        self._ran(seen)
        self.compare(seen, seen.reply, sum(self.model.acknowledge(batch, name) for name in ids))

        self._store(draw)

    def _store(self, draw: Random) -> None:
        """Answers are stored, read on elsewhere, and deleted."""
        ids = [name for name in self.model.results.get(STORED, ([], 0.0))[0] if draw.random() < 0.3]
        seen = self.probe.run(ACKNOWLEDGE, BatchArguments(STORED, KEEP_MS), [(name,) for name in ids])
        self._ran(seen)
        self.compare(seen, seen.reply, sum(self.model.acknowledge(STORED, name, KEEP_MS) for name in ids))
        some = self._some_ids(draw) + [name for name, job in self.model.jobs.items() if job.sink == STORED][:2]
        for job_id in some:
            owner, tenant = draw.choice(APIS), draw.choice([*TENANTS])
            seen = self.probe.run(HEAR, HearArguments(job_id, owner, tenant))
            self._ran(seen)
            self.compare(seen, [part.decode() for part in seen.reply], self.model.hear(owner, job_id, tenant))
        rows = [(job_id, draw.choice(["", *TENANTS])) for job_id in some if draw.random() < 0.2]
        seen = self.probe.run(DROP, NoArguments(), rows)
        self._ran(seen)
        self.compare(seen, seen.reply.decode(), "".join(self.model.drop(*row) for row in rows))

    def take_back(self, draw: Random) -> None:
        """A feeder cancels lines."""
        ids = [job.id for job in self.model.jobs.values() if job.sink and draw.random() < 0.3]
        seen = self.probe.run(CANCEL, OwnerArguments(""), [(job_id,) for job_id in ids])
        self._ran(seen)
        self.compare(seen, seen.reply.decode(), "".join(self.model.cancel("", job_id) for job_id in ids))

    def _admit(self, asked: AdmitArguments, rows: Sequence[LimitRow]) -> str:
        limits = ADMIT_LIMITS[asked.model]._replace(uncounted=flag(asked.tenant == UNCOUNTED))
        seen = self.probe.run(ADMIT, with_facts(asked, limits), [ADMIT.keep(row) for row in rows], ADMIT.stand(limits))
        self._ran(seen)
        verdict, number, _, rates, breach, joined, _, _ = seen.reply
        ahead = self.model.waiting(asked.model, asked.lane)
        model_asked = asked._replace(idempotency=asked.idempotency and keys.PREFIXES["idempotency"] + asked.idempotency)
        *expected, due = self.model.admit(model_asked, rows)
        self.compare(seen, [verdict.decode(), joined.decode()], expected)
        wait_ms = (due - self.model.second) * 1000 - seen.now % 1000 if due else PROMISE_S * 1000
        if verdict == b"rate" and (number != wait_ms or not breach):
            raise Broken(f"refused for {number} ms and {breach}, where the model says {wait_ms}")
        if verdict == b"ok" and number != ahead:
            raise Broken(f"{number} ahead, where {ahead} wait")
        told = (b"full", b"share", b"busy", b"waits")
        if (verdict in told and not 1000 <= number <= 60_000) or any(rate < 0 for rate in rates):
            raise Broken(f"refused for {number} ms, {rates} remain")
        if verdict == b"ok" and not asked.ask:
            self.seen_ids = [*self.seen_ids[-30:], asked.id]
        return str(expected[0])

    def cancel(self, draw: Random) -> None:
        """Some owner's client leaves."""
        owner, ids = draw.choice(APIS), self._some_ids(draw)
        if job := self._pick(draw, [job for job in self.model.jobs.values() if job.owners]):
            owner, ids = draw.choice(job.owners), [*ids, job.id]
        seen = self.probe.run(CANCEL, OwnerArguments(owner), [(job_id,) for job_id in ids])
        self._ran(seen)
        self.compare(seen, seen.reply.decode(), "".join(self.model.cancel(owner, job_id) for job_id in ids))

    def forget(self, draw: Random) -> None:
        """Some owner has handed ends on."""
        owner = draw.choice(APIS)
        ids = [job.id for job in self.model.jobs.values() if job.state == "ended" and draw.random() < 0.7]
        ids += self._some_ids(draw)
        keep = left = draw.choice((0, 0, 1))
        seen = self.probe.run(FORGET, ForgetArguments(owner, keep), [(job_id,) for job_id in ids])
        self._ran(seen)
        expected = 0
        for job_id in ids:
            dropped = self.model.forget(owner, job_id, keep=left > 0)
            left, expected = left - dropped, expected + dropped
        self.compare(seen, seen.reply, expected)

    def peek(self, draw: Random) -> None:
        """Some owner reads what it missed."""
        wanted = [(job_id, draw.randrange(3)) for job_id in self._some_ids(draw)]
        seen = self.probe.run(PEEK, PeekArguments(10**6), wanted)
        self._ran(seen)
        expected = []
        for job_id, number in wanted:
            job, log = self.model.jobs.get(job_id), self.model.logs.get(job_id)
            events = log.events if log else []
            expected.append(
                [job.state if job else "", nonce_of(job.attempt if job else ""), len(events), *events[number:]]
            )
        got = [[part.decode() if isinstance(part, bytes) else part for part in parts] for parts in seen.reply]
        self.compare(seen, got, expected)

    def beat(self, draw: Random) -> None:
        """API processes say that they live; now and then one leaves."""
        gone = draw.random() < 0.04
        for owner in [draw.choice(APIS)] if gone else APIS:
            if gone or draw.random() < 0.9:
                self.beat_one(owner, gone=gone)

    def beat_one(self, owner: str, *, gone: bool = False) -> None:
        seen = self.probe.run(BEAT, BeatArguments(owner, f"2 {owner}", OWNER_MS, flag(gone)))
        self._ran(seen)
        self.model.beat(owner, f"2 {owner}", OWNER_MS, gone=gone)
        self.compare(seen, seen.reply, seen.now)

    # Operators -------------------------------------------------------------------------------------------------------

    def set_model(self, draw: Random) -> None:
        """An operator holds a model, or lets it go."""
        self.set_one(draw.choice([*MODELS]), draw.choice(("pause", "drain", "retire", "resume", "resume", "resume")))

    def set_one(self, model: str, action: str) -> None:
        seen = self.probe.run(SET_MODEL, SetModelArguments(model, action, "op", "test", keys.queue(model), TICKET))
        self._ran(seen)
        got = [part.decode() if isinstance(part, bytes) else part for part in seen.reply]
        self.compare(seen, got, self.model.set_model(model, action))

    def end_jobs(self, draw: Random) -> None:
        """An operator ends jobs."""
        ids = self._some_ids(draw)
        seen = self.probe.run(END_JOBS, EndJobsArguments("op", "test", "some", b"stopped", ""), [(one,) for one in ids])
        self._ran(seen)
        letters = "".join(self.model.end_job(one, "stopped") for one in ids)
        if "r" in letters:
            self.model.told.append(("", BY_OPERATOR))
        self.compare(seen, seen.reply.decode(), letters)

    def move_jobs(self, draw: Random) -> None:
        """An operator moves jobs."""
        ids, lane = self._some_ids(draw), draw.choice(LANES)
        seen = self.probe.run(MOVE_JOBS, MoveJobsArguments("op", "test", "some", lane), [(one,) for one in ids])
        self._ran(seen)
        self.compare(seen, seen.reply.decode(), "".join(self.model.move_job(one, lane) for one in ids))

    # Workers ---------------------------------------------------------------------------------------------------------

    def take(self, draw: Random) -> None:
        """Some worker takes."""
        self.take_for(draw, draw.choice([*filter(self.is_awake, WORKERS)] or WORKERS), draw.choice([*MODELS]))

    def take_for(self, draw: Random, worker: str, model: str) -> None:
        limits = MODELS[model]
        mine = [held for held in self.held[worker] if held.model == model]
        if draw.random() < 0.6:
            seen = self.probe.say("RPOP", keys.queue(model))
            self._ran(seen)
            self.model.rooms[model].tickets = max(0, self.model.rooms[model].tickets - 1)
        asked = TakeArguments(
            model=model, nonce=self._nonce(), free_slots=draw.randrange(1, 4), mine=len(mine),
            surplus=flag(draw.random() < 0.6), concurrency=max(1, limits.concurrency - (draw.random() < 0.1)),
            batch_reserve=limits.batch_reserve, lease_ms=LEASE_MS, timeout_wire=b"timeout", weight_priority=8,
            weight_default=4, weight_flex=2, weight_batch=1, awake_ms=draw.choice((0, 0, 20)),
            bulk_bytes=draw.choice((150, 10**6, 10**6)), queue=keys.queue(model), ticket=TICKET,
            people_first=flag(limits.patience_ms), off="",
        )  # fmt: skip
        seen = self.probe.run(TAKE, asked)
        self._ran(seen)
        expected = self.model.take(asked._replace(timeout_wire="timeout"))  # type: ignore[arg-type]
        reply = seen.reply
        ids = [job_id.decode() for job_id in reply[2::6]]
        for job_id, attempt in zip(ids, reply[3::6], strict=True):
            self.held[worker].append(Held(job_id, model, attempt.decode(), until=self.model.now + LEASE_MS))
        self.compare(seen, (ids, reply[1]), expected)

    def make_room(self, draw: Random) -> None:
        """Some worker looks whether batch work is to make room; those that hold it hear of it, or will at a renewal."""
        model = next(name for name, limits in MODELS.items() if limits.patience_ms)
        limits = MODELS[model]
        concurrency = max(1, limits.concurrency - (draw.random() < 0.1))
        asked = MakeRoomArguments(model, concurrency, limits.patience_ms, keys.queue(model), TICKET)
        seen = self.probe.run(MAKE_ROOM, asked)
        self._ran(seen)
        expected = self.model.make_room(model, concurrency, limits.patience_ms)
        told = [message.decode().split(" ")[1:] for name, message in seen.published if name.decode() == keys.CROWD]
        gone = {pair for words in told for pair in zip(words[::2], words[1::2], strict=True)}
        for of_worker in self.held.values():
            for one in [one for one in of_worker if (one.id, one.attempt) in gone]:
                one.until = -math.inf
                if draw.random() < 0.9:
                    of_worker.remove(one)
        self.compare(seen, seen.reply, expected)

    def away(self, draw: Random) -> None:
        """Some worker finds no backend, or looks again."""
        model, has_met = draw.choice([*MODELS]), draw.random() < 0.5
        seen = self.probe.run(AWAY, AwayArguments(model, 0, flag(has_met)))
        self._ran(seen)
        self.compare(seen, seen.reply, self.model.away(model, has_met=has_met))

    def back(self, draw: Random) -> None:
        """Some worker finds a backend, or only has ended its sleep hook."""
        self.back_for(draw.choice([*MODELS]), is_there=draw.random() < 0.8)

    def back_for(self, model: str, *, is_there: bool = True) -> None:
        seen = self.probe.run(BACK, BackArguments(model, flag(is_there), keys.queue(model), TICKET))
        self._ran(seen)
        self.compare(seen, seen.reply, self.model.back(model, is_there=is_there))

    def append(self, draw: Random) -> None:
        """Workers send events of their jobs, anew or again."""
        for worker in WORKERS:
            if draw.random() < 0.6 and self.is_awake(worker):
                sent = [self.some_events(draw, held) for held in self.held[worker] if draw.random() < 0.8]
                self.append_for(draw, worker, sent)

    def some_events(self, draw: Random, held: Held) -> Sent:
        start = max(0, held.sent - draw.choice((0, 0, 0, 1, 2, 9))) + (draw.random() < 0.05)
        ends = held.has_ended or draw.random() < 0.45
        until = held.sent if held.has_ended else max(held.sent, start + draw.randrange(3)) + ends
        start = min(start, until - 1) if ends else start  # whoever repeats an end sends its event
        payloads = [event(held.attempt, number, "C") for number in range(start, until)]
        if not ends:
            return Sent(held, start, None, payloads)
        payloads[-1] = event(held.attempt, until - 1, "D")
        return Sent(held, start, draw.choice(ENDINGS), payloads)

    def append_for(self, draw: Random, worker: str, sent: Sequence[Sent]) -> None:
        seen = self.probe.run(APPEND, (), [one.row() for one in sent])
        self._ran(seen)
        letters = seen.reply.decode()
        for letter, one in zip(letters, sent, strict=True):
            if letter in "ow":
                one.held.sent = max(one.held.sent, one.start + len(one.payloads))
                one.held.has_ended = one.held.has_ended or one.end is not None
        expected = [self.model.append(it.held.id, it.held.attempt, it.start, it.end, it.payloads) for it in sent]
        self.compare(seen, letters, "".join(expected))
        for letter, (held, *_) in zip(letters, sent, strict=True):
            if letter in "sucge" or (held.has_ended and draw.random() < 0.7):
                self.held[worker].remove(held)
            if letter in "cegs":  # a stale one has no say any more
                self._release(worker, [(held, {"c": "end", "e": "end", "g": "fail", "s": "again"}[letter])])

    def hang(self, draw: Random) -> None:
        """Some worker stops where it is for longer than a lease, and then goes on with what it holds."""
        busy = [worker for worker in WORKERS if self.held[worker]]
        self.hung[draw.choice(busy or WORKERS)] = self.model.now + draw.choice((5_000, 9_000, 12_000))

    def is_awake(self, worker: str) -> bool:
        """Say whether a worker does not hang."""
        return self.hung.get(worker, -math.inf) <= self.model.now

    def release(self, draw: Random) -> None:
        """Some worker gives jobs up."""
        worker = draw.choice(WORKERS)
        jobs = [
            (held, draw.choice(("away", "away", "again", "hold", "fail")))
            for held in self.held[worker]
            if draw.random() < 0.5
        ]
        for held, how in jobs:
            if how != "away":
                self.held[worker].remove(held)
        self._release(worker, jobs)

    def _release(self, worker: str, jobs: Sequence[tuple[Held, str]]) -> None:
        for model in MODELS:
            mine = [(held, how) for held, how in jobs if held.model == model]
            if not mine:
                continue
            cuts = [CUTS[int(held.attempt[-1], 16) % 3] for held, _ in mine]
            rows = [
                (held.id, held.attempt, how, b"given up", b"" if cut is None else json.dumps(cut).encode())
                for (held, how), cut in zip(mine, cuts, strict=True)
            ]
            seen = self.probe.run(RELEASE, ReleaseArguments(worker, keys.queue(model), TICKET), rows)
            self._ran(seen)
            reply = seen.reply.decode()
            expected = [
                self.model.release(worker, held.id, held.attempt, how, "given up", cut)
                for (held, how), cut in zip(mine, cuts, strict=True)
            ]
            for letter, (held, _) in zip(reply, mine, strict=True):
                if letter not in "pn" and held in self.held[worker]:
                    self.held[worker].remove(held)
            self.compare(seen, reply, "".join(expected))

    def renew(self, draw: Random) -> None:
        """Workers renew what they hold."""
        for worker in WORKERS:
            if draw.random() < 0.8 and self.is_awake(worker):
                self.renew_one(worker)

    def renew_one(self, worker: str) -> None:
        held = [(job.id, job.attempt) for job in self.held[worker] if not job.has_ended]
        models = [*MODELS]
        arguments = RenewArguments(worker, f"2 {worker}", LEASE_MS, "\n".join(models))
        seen = self.probe.run(RENEW, arguments, held)
        self._ran(seen)
        reply = [part.decode() for part in seen.reply]
        expected = self.model.renew(worker, f"2 {worker}", LEASE_MS, models, held)
        reasons = {(reply[at], reply[at + 1]): reply[at + 2] for at in range(1, len(reply), 3)}
        given_up = [job for job in self.held[worker] if (job.id, job.attempt) in reasons]
        self.held[worker] = [job for job in self.held[worker] if job not in given_up]
        for job in self.held[worker]:
            job.until = self.model.now + LEASE_MS
        self.compare(seen, reply, expected)
        self._release(worker, [(job, "end") for job in given_up if reasons[job.id, job.attempt] in "co"])

    def leave(self, draw: Random) -> None:
        """Some worker leaves, politely or not: what it holds is lost or handed back."""
        worker = draw.choice(WORKERS)
        if draw.random() < 0.6:
            self.leave_one(worker)
            self._release(worker, [(held, "away") for held in list(self.held[worker])])
        self.held[worker] = []

    def leave_one(self, worker: str) -> None:
        seen = self.probe.run(LEAVE, LeaveArguments(worker, f"2 {worker}"), [(model,) for model in MODELS])
        self._ran(seen)
        self.model.leave(worker, f"2 {worker}", [*MODELS])
        self.compare(seen)

    # Everybody, time, misfortune --------------------------------------------------------------------------------------

    def sweep(self, draw: Random) -> None:
        """Some process sweeps, if a second has passed."""
        if draw.random() < 0.8:
            self.let_pass(PERIOD_MS)
        self.sweep_now(draw.choice((*APIS, *WORKERS)))

    def sweep_now(self, process: str) -> None:
        wires = (b"timeout", b"lost", b"exhausted", b"nobody", b"not started")
        asked = SweepArguments(process, PERIOD_MS, LEASE_MS, GRACE_MS, *wires)
        rows = [
            SweepRow(name, it.concurrency, it.max_wait_ms, keys.queue(name), TICKET, flag(it.waits_unserved), "key")
            for name, it in MODELS.items()
        ]
        order = self.probe.members(keys.OWNERS)
        seen = self.probe.run(SWEEP, asked, rows)
        self._ran(seen)
        words = {name: value.decode() for name, value in asked._asdict().items() if name.endswith("_wire")}
        expected = self.model.sweep(asked._replace(**words), rows, order)
        if seen.reply[5:]:
            raise Broken(f"the sweep failed: {seen.reply[5:]}")
        self.compare(seen, seen.reply[1:] or None, expected)

    def pass_time(self, draw: Random) -> None:
        """Some time passes."""
        self.let_pass(draw.choice((10, 30, 250, 1_000, 1_000, 2_500, 2_500, 7_000)))

    def silence(self, draw: Random) -> None:
        """Much time passes in which nobody says anything, as while Redis was away."""
        self.let_pass(draw.choice((9_000, 9_000, 20_000, 70_000, 400_000)))

    def clock_back(self, draw: Random) -> None:
        """The clock is set back."""
        self.let_pass(-draw.choice((5_000, 120_000)))

    def let_pass(self, by_ms: int) -> None:
        seconds = (self.moved + by_ms) // 1000 - self.moved // 1000
        now = self.probe.pass_time(by_ms, seconds=seconds)
        self.seconds_moved += seconds
        self.model.at(now + self.moved, now + self.moved)
        self.moved += by_ms
        self.model.at(now + self.moved, now + self.moved)
        for of_worker in self.held.values():
            for held in of_worker:
                held.until += min(0, by_ms)  # a worker's own clock is never set back
        self.held_back_until += min(0, by_ms)

    def remember(self, _: Random) -> None:
        """A replica copies everything."""
        snapshot = self.probe.snapshot()
        self.model.at(snapshot.at + self.moved, snapshot.at + self.moved)
        self.snapshot = (snapshot, copy.deepcopy(self.model), self.moved)

    def fall_back(self, _: Random) -> None:
        """That replica takes over: another server, an earlier state; the processes go on with what they hold."""
        if self.snapshot is None:
            return
        snapshot, model, moved = self.snapshot
        self.probe.restore(snapshot, self.moved - moved, seconds=self.moved // 1000 - moved // 1000)
        self.model = copy.deepcopy(model)
        for name, room in self.model.rooms.items():  # promises of milliseconds are over
            self.probe.command("DEL", keys.PREFIXES["awake"] + name)
            room.awake = -math.inf
        self.runs += 1
        for process in (*APIS, *WORKERS):
            self._hello(process)
        self.held_back_until = self.model.now + LEASE_MS + 500

    def _hello(self, process: str) -> None:
        arguments = HelloArguments(f"2 {process}", "2", f"run-{self.runs}", "", LEASE_MS)
        seen = self.probe.run(HELLO, arguments, [(model,) for model in MODELS])
        self._ran(seen)
        self.model.hello(f"2 {process}", f"run-{self.runs}", knew_another=False, lease_ms=LEASE_MS)
        self.compare(seen, seen.reply, [b"ok"])

    def spoil(self, draw: Random) -> None:
        """A record becomes unreadable."""
        job = self._pick(draw, [job for job in self.model.jobs.values() if job.state != "ended"])
        if job is not None:
            self.probe.command("HSET", keys.job(job.id), "facts", "{")
            job.is_readable = False

    # Choices ---------------------------------------------------------------------------------------------------------

    def _some_ids(self, draw: Random) -> list[str]:
        return [job_id for job_id in self.seen_ids[-12:] if draw.random() < 0.15]

    def _pick(self, draw: Random, among: Sequence[Drawn]) -> Drawn | None:
        return draw.choice(among) if among else None
