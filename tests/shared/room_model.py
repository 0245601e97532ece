"""A plain Python model of the waiting rooms: what was asked, and when, in; what must be answered and stand, out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from shared.protocol import KEEP_MS, LIVE_WORKER_MS, MOST_MOVED, PROMISE_MS, STORED
from shared.room.scripts import AdmitArguments, LimitRow, TakeArguments
from tests.shared.room_control import Control
from tests.shared.room_groups import part
from tests.shared.room_limits import ADMIT_LIMITS
from tests.shared.room_state import FAILED, LANES, UNCOUNTED, Job, Kept, Log, Room, Turns, is_line, share_of, weights_of
from tests.shared.room_upkeep import Upkeep
from tests.shared.room_windows import Claim


class Model(Upkeep, Control):
    """The rooms. Each method is a script: it returns the reply that must come, and leaves what must then stand."""

    _limits: tuple[LimitRow, ...] = ()
    _due = 0
    _claim: Claim | None = None

    # What an API process says ---------------------------------------------------------------------------------------

    def admit(self, asked: AdmitArguments, rows: Sequence[LimitRow]) -> tuple[str, str, int]:
        """Return the verdict, the id of a job that is joined, and for a rate the second to come again."""
        self._limits, self._due, self._claim = tuple(rows), 0, None
        verdict, joined = self._verdict(asked)
        if verdict not in ("ok", "again") and asked.apart and not asked.ask:
            self.bodies.pop(asked.id, None)
        if verdict == "ok" and not asked.ask:
            if asked.apart and asked.id not in self.bodies:
                return "late", "", 0
            self._accept(asked)
        return verdict, joined, self._due

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
        limits = ADMIT_LIMITS[asked.model]
        if not is_line(asked.sink):
            verdict, self._due, self._claim = self.judge(asked, self._limits)
            if verdict:
                return verdict
        if not is_line(asked.sink) and not self._is_served(asked):
            return "no_worker"
        ahead, open_slots, counts = self.waiting(asked.model, asked.lane), self._open(asked), self.counters(asked.model)
        is_bounded = asked.lane != "batch" or not asked.must_finish or asked.sink == STORED
        if is_bounded and self.rooms[asked.model].state == "retired":
            return "retired"
        if is_bounded and asked.at_once and ahead >= open_slots:
            return "busy"
        if ahead >= open_slots and not is_line(asked.sink) and self.is_full_of_waits(self._limits):
            return "waits"
        if not is_bounded:
            return "ok"
        prefix = "batch:" if asked.lane == "batch" else ""
        is_full = ahead >= limits.max_queue + open_slots
        if ahead >= open_slots:
            tokens, size = counts[prefix + "tokens"] + asked.cost, counts[prefix + "bytes"] + asked.size
            is_full = is_full or tokens > (limits.max_queue_tokens or math.inf)
            is_full = is_full or size > (limits.max_queue_bytes or math.inf)
        if is_full:
            return "full"
        return "share" if counts["@" + prefix + share_of(asked)] >= limits.tenant_share + open_slots else "ok"

    def _is_served(self, asked: AdmitArguments) -> bool:
        if self.live(asked.model) or self.live(asked.model, ADMIT_LIMITS[asked.model].grace_ms):
            return True
        return 0 <= self.now - max(0, self.rooms[asked.model].left_at) <= ADMIT_LIMITS[asked.model].grace_ms

    @staticmethod
    def _is_bounded(asked: AdmitArguments) -> bool:
        return asked.lane != "batch" or not asked.must_finish or asked.sink == STORED

    def _open(self, asked: AdmitArguments) -> int:
        limits = ADMIT_LIMITS[asked.model]
        room = self.rooms[asked.model]
        if (room.state != "active" or room.held) and self._is_bounded(asked):
            return 0
        free = max(0, limits.concurrency - len(room.running))
        if asked.lane == "batch":
            free = max(
                0,
                min(
                    free,
                    limits.concurrency - limits.batch_reserve - len(room.batch_running),
                ),
            )
        return free

    def _accept(self, asked: AdmitArguments) -> None:
        limits = ADMIT_LIMITS[asked.model]
        room, now = self.rooms[asked.model], self.now
        owners = [asked.owner] if asked.owner else []
        deadline = math.inf if is_line(asked.sink) else now + asked.max_wait_ms
        job = Job(asked, now, owners, deadline, self.ttl_now + limits.life_ms)
        open_slots, ahead = self._open(asked), self.waiting(asked.model, asked.lane)
        must_wait = ahead >= open_slots
        self.jobs[job.id] = job
        self.enter(job)
        self.accepted += asked.tenant != UNCOUNTED
        if asked.apart:
            self.bodies[job.id] = self.ttl_now + limits.life_ms
        job.rows = self._limits
        self.charge(job, self._claim, limits.life_ms, must_wait=must_wait)
        if asked.idempotency:
            self.idempotency[asked.idempotency] = Kept(f"{job.id} {asked.body_hash}", self.ttl_now + limits.life_ms)
        if asked.owner:
            self.owned.setdefault(asked.owner, set()).add(job.id)
        if (open_slots > 0 and not self.stands(room.awake, PROMISE_MS)) or (
            # Whose lines fill all that is open to them has workers, which look for the backend.
            open_slots == 0 and ahead == 0 and room.held and self._is_bounded(asked)
        ):
            self.push(asked.model)
        elif open_slots == 0 and limits.people_first and job.lane != "batch" and room.batch_running:
            self.told.append(("crowd", f"w {asked.model}"))

    def cancel(self, owner: str, job_id: str) -> str:
        """Take an owner out of one job."""
        job = self.load(job_id)
        if job is None:
            self.bodies.pop(job_id, None)
            return "n"
        if job.state == "ended" or owner not in (job.owners or [""]):
            return "n"
        if job.owners not in ([owner], []) or (job.must_finish and owner):
            job.owners.remove(owner)
            self.owned[owner].discard(job_id)
            return "o"
        if job.state == "waiting":
            self.leave_room(job)
            self.cancelled(job)
            return "w"
        self.free(job)
        job.is_cancelled = True
        self.told.append(("", job_id))
        return "r"

    def forget(self, owner: str, job_id: str, *, keep: bool = False) -> int:
        """Drop an ended job, or only its log."""
        job = self.jobs.get(job_id)
        if job is None or job.state != "ended" or job.owners != [owner]:
            return 0
        if not keep:
            del self.jobs[job_id]
        self.logs.pop(job_id, None)
        return 1

    def hear(self, owner: str, job_id: str, tenant: str) -> list[str]:
        """Have one owner more; returns what it is told."""
        job = self.load(job_id)
        if job is None or job.sink != STORED or job.asked.tenant != tenant or job.is_cancelled:
            return []
        if job.state != "ended" and owner not in job.owners:
            job.owners.append(owner)
            self.owned.setdefault(owner, set()).add(job_id)
        return [job.state, "spec"]

    def drop(self, job_id: str, tenant: str) -> str:
        """Forget a job whose answer is stored."""
        job = self.load(job_id)
        if job is None or job.sink != STORED or tenant not in ("", job.asked.tenant):
            return "n"
        if job.state == "ended":
            self._take_from_sink(STORED, job_id)
            for held in (self.jobs, self.logs, self.bodies):
                held.pop(job_id, None)
            return "e"
        if job.state == "waiting":
            self.leave_room(job)
            self.cancelled(job)
            return "w"
        self.free(job)
        job.is_cancelled = True
        self.told.append(("", job_id))
        return "r"

    def _take_from_sink(self, sink: str, job_id: str) -> None:
        ids, until = self.results.get(sink, ([], 0.0))
        if job_id in ids:
            ids.remove(job_id)
        self.results[sink] = (ids, until)

    def acknowledge(self, batch: str, job_id: str, keep_ms: int = 0) -> int:
        """Drop a result that is kept elsewhere."""
        self._take_from_sink(batch, job_id)
        job = self.jobs.get(job_id)
        if job is None or job.state != "ended":
            return 0
        if keep_ms:
            job.expires = self.ttl_now + keep_ms
            if job_id in self.logs:
                self.logs[job_id].expires = job.expires
            self.bodies.pop(job_id, None)
            return 1
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

    def take(self, asked: TakeArguments) -> tuple[list[str], int]:
        """Return the ids that must be taken, in order; 1 if more could be, 2 if somebody waits behind batch work."""
        room = self.rooms[asked.model]
        if not room.waits:
            self._promise(room, asked)
            return [], 0
        hold = self.singles.get("hold")
        if hold is not None and self.stands(hold.expires, asked.lease_ms):
            return [], 0
        if room.held:
            return [], 3
        if room.state != "active":
            return [], 0
        n = min(asked.free_slots, asked.concurrency - len(room.running))
        if n > 0 and not asked.surplus:
            n = min(n, math.ceil(asked.concurrency / max(1, self.live(asked.model))) - asked.mine)
        turns = Turns({lane: room.passes.get(lane, 0.0) for lane in LANES}, weights_of(asked))
        taken, aside = self._take_jobs(room, asked, turns, n)
        if turns.present is not None:
            room.passes[""] = turns.present
            is_shut = len(room.batch_running) + asked.batch_reserve >= asked.concurrency or _is_crowded(room, asked)
            if turns.passes["batch"] < turns.present and is_shut:
                room.passes["batch"] = turns.present
        for lane, tag in turns.clocks.items():
            room.tags[lane][":clock"] = tag
        more = len(room.running) < asked.concurrency and self._next_lane(asked, turns.passes) is not None
        is_behind = not more and _is_crowded(room, asked) and bool(room.batch_running)
        for lane, job_id, tag in aside:
            if self.jobs[job_id].group:
                self.wait_in_front(self.jobs[job_id])
            else:
                room.lanes[lane][job_id], room.waits[job_id] = tag, self.jobs[job_id].deadline
        if not more and len(taken) < asked.free_slots:
            self._promise(room, asked)
        elif room.awake > self.ttl_now:
            room.awake = -math.inf
            if more:
                self.push(asked.model)
        return taken, 1 if more else 2 * is_behind

    def _take_jobs(
        self, room: Room, asked: TakeArguments, turns: Turns, n: int
    ) -> tuple[list[str], list[tuple[str, str, float]]]:
        taken, aside, bulk = list[str](), list[tuple[str, str, float]](), 0
        while len(taken) < n and (lane := self._next_lane(asked, turns.passes)):
            job_id, tag = min(room.lanes[lane].items(), key=lambda pair: (pair[1], pair[0]))
            job = self.load(job_id)
            del room.lanes[lane][job_id]
            room.waits.pop(job_id, None)
            is_too_large = job is not None and job.asked.apart and bulk + job.asked.size > asked.bulk_bytes
            if job is None:
                room.met_lost = True
            elif is_too_large and job.deadline > self.now and self.is_heard(job, judged=not self.stood_still()):
                aside.append((lane, job_id, tag))
                if job.group:
                    part(room, job, tag, 0, self.now)
            elif not self._is_dropped(job, asked, tag):
                self._run(job, asked)
                if job.group:
                    part(room, job, tag, job.asked.cost, self.now)
                taken.append(job_id)
                bulk += job.asked.size if job.asked.apart else 0
                room.passes[lane] = turns.take(lane, tag)
            if not room.lanes[lane] and lane not in {kept for kept, *_ in aside}:
                room.tags[lane].clear()
                turns.clocks.pop(lane, None)
        return taken, aside

    def _is_dropped(self, job: Job, asked: TakeArguments, place: float) -> bool:
        self.leave_waits(job)
        is_heard = self.is_heard(job, judged=not self.stood_still())
        if is_heard and job.deadline > self.now:
            return False
        if job.group:
            part(self.rooms[job.model], job, place, 0, self.now)
        self.settle(job, -job.asked.cost, was_waiting=True)
        if is_heard:
            self.fail(job, str(asked.timeout_wire))
        else:
            self.cancelled(job)
        return True

    def _promise(self, room: Room, asked: TakeArguments) -> None:
        room.awake = self.ttl_now + asked.awake_ms if asked.awake_ms else -math.inf

    def _next_lane(self, asked: TakeArguments, passes: dict[str, float]) -> str | None:
        room = self.rooms[asked.model]
        is_open = len(room.batch_running) + asked.batch_reserve < asked.concurrency or asked.batch_reserve == 0
        is_open = is_open and not _is_crowded(room, asked)
        open_lanes = [lane for lane in LANES if room.lanes[lane] and (lane != "batch" or is_open)]
        return min(open_lanes, key=lambda lane: passes[lane], default=None)

    def _run(self, job: Job, asked: TakeArguments) -> None:
        room = self.rooms[job.model]
        job.state, job.tries = "running", job.tries + 1
        job.attempt = f"{job.tries}.{asked.nonce}"
        room.running[job.id] = self.now + asked.lease_ms
        job.taken = self.now
        if job.lane == "batch":
            room.batch_running.add(job.id)

    def make_room(self, model: str, concurrency: int, patience_ms: int) -> int:
        """Hand batch work back for who has waited too long; returns when to look again."""
        room = self.rooms[model]
        batch, free = len(room.batch_running), max(0, concurrency - len(room.running))
        if not batch or room.held or room.state != "active":
            return -1
        left = [patience_ms - (self.now - job.admitted) for job in self._heads(room, min(free + batch, MOST_MOVED))]
        due, later = sum(ms <= 0 for ms in left), [min(ms, patience_ms) for ms in left if ms > 0]
        found = [self.jobs[job_id] for job_id in room.batch_running if job_id in self.jobs] if due > free else []
        young = [job for job in found if job.state == "running" and not job.is_cancelled and job.id not in self.logs]
        young.sort(key=lambda job: (job.taken or 0, job.id), reverse=True)
        told = list[str]()
        for job in young[: max(0, due - free)]:
            if self.load(job.id) is not None:
                told += [job.id, job.attempt]
                self.wait_again(job, max(0, job.tries - 1))
        if told:
            self.told.append(("crowd", " ".join(["b", *told])))
            self.push(model)
        if (len(young) if due > free else batch) == len(told) // 2:
            return -1
        return max(1, patience_ms // 4) if due else round(min(later, default=-1))

    def _heads(self, room: Room, count: int) -> list[Job]:
        heads = list[Job | None]()
        for lane in LANES[:-1]:
            by_tag = sorted(room.lanes[lane].items(), key=lambda pair: (pair[1], pair[0]))
            heads += [self.load(job_id) for job_id, _ in by_tag[:count]]
        return [job for job in heads if job is not None]

    def append(
        self, job_id: str, attempt: str, number: int, ending: dict[str, Any] | None, payloads: Sequence[str]
    ) -> str:
        """Store events of one job; `ending` is how it ended."""
        job = self.jobs.get(job_id)
        if job is None:
            return "u"
        if job.attempt != attempt:
            return "s"
        if job.state == "ended":
            return "s" if ending is None else "w" if self.rooms[job.model].waits else "o"
        if job.is_cancelled:
            return "e" if job.stopped else "c"
        log = self.logs.get(job_id)
        known = list(log.events) if log else []
        if number > len(known):
            return "g"
        if ending is not None and self.load(job_id) is None:
            return "u"
        fresh = payloads[len(known) - number :]
        for at, payload in enumerate(fresh, len(known)):
            self.tell(job, at, payload)
        if fresh and log is None:
            self.logs[job_id] = Log([*fresh], self.ttl_now + max(60_000, job.expires - self.ttl_now))
        elif log is not None:
            log.events += fresh
        if ending is None:
            return "o"
        self.logs[job_id].expires = self.ttl_now + job.keep_ms
        job.used = ending["cost"]
        self.count(job, "done" if ending["status"] == 200 else "failed", ending)
        self.finish(job, job.keep_ms)
        self.settle(job, ending["cost"] - job.asked.cost)
        self.rooms[job.model].ended_at = self.now
        return "w" if self.rooms[job.model].waits else "o"

    def release(
        self, worker: str, job_id: str, attempt: str, how: str, wire: str, ending: dict[str, Any] | None = None
    ) -> str:
        """Give one job up."""
        job = self.load(job_id)
        if job is None:
            return "u"
        letter = "s"
        if job.attempt == attempt and job.state == "running":
            letter = self._released(worker, job, how, wire, ending)
            if letter in "ef":
                self.rooms[job.model].ended_at = self.now
        if self.rooms[job.model].waits and how != "hold":
            self.push(job.model)
        return letter

    def away(self, model: str, *, has_met: bool) -> int:
        """Hear a worker that finds no backend; there is no hook."""
        room = self.rooms[model]
        room.held = room.held or has_met
        return KEEP_MS if room.held else -1

    def back(self, model: str, *, is_there: bool) -> int:
        """Hear a worker that found a backend, or whose sleep hook has ended."""
        room = self.rooms[model]
        room.held = room.held and not is_there
        if room.waits:
            self.push(model)
        return 1

    def _released(self, worker: str, job: Job, how: str, wire: str, ending: dict[str, Any] | None) -> str:
        if job.is_cancelled or how == "end":
            return "f" if self.end_cancelled(job, ending) else "e"
        if how == "away":
            if job.id in self.logs:
                return "p"
            seen = self.rooms[job.model].workers.get(worker, -math.inf)
            if not job.is_line and self.live(job.model) - (seen >= self.now - LIVE_WORKER_MS) <= 0:
                return "n"
            self.wait_again(job, max(0, job.tries - 1))
            return "b"
        if how == "hold" and job.id not in self.logs:
            self.wait_again(job, max(0, job.tries - 1), keeps_deadline=True)
            return "b"
        if how == "again" and job.id not in self.logs and job.tries < ADMIT_LIMITS[job.model].max_tries:
            self.wait_again(job, job.tries)
            return "b"
        self.fail(job, wire)
        return "f"

    def renew(
        self, worker: str, process: str, lease_ms: int, models: Sequence[str], held: Sequence[tuple[str, str]]
    ) -> list[str]:
        """Return what the worker must hear: a digit a model, then id, attempt, reason."""
        if models:
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
                    reason = "e" if job.stopped else "c"
                elif not self.is_heard(job, judged=judged):
                    reason = "o"
                if reason in ("", "c", "e", "o"):
                    self.rooms[job.model].running[job_id] = self.now + lease_ms
            if reason:
                out += [job_id, attempt, reason]
        return out

    def leave(self, worker: str, process: str, models: Sequence[str]) -> None:
        """Hear a worker go."""
        self.processes.pop(process, None)
        for model in models:
            self.rooms[model].awake = -math.inf
            if self.rooms[model].workers.pop(worker, None) is not None:
                self.rooms[model].left_at = self.now


def _is_crowded(room: Room, asked: TakeArguments) -> bool:
    """Say whether anybody waits whom batch work must not overtake."""
    return asked.people_first == "1" and any(room.lanes[lane] for lane in LANES[:-1])
