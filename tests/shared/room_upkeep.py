"""The model of what everybody says: a process's first word, and the sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence

from shared.protocol import DAY_MS, KEEP_MS, OWNER_MS
from shared.room.scripts import SweepArguments, SweepRow
from tests.shared.room_groups import head_of, regroup, tend
from tests.shared.room_limits import ADMIT_LIMITS
from tests.shared.room_state import LANES, Kept, Room, Rooms


class Upkeep(Rooms):
    """What `hello` and `sweep` do."""

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
        self.was_set_back = self.swept is not None and self.swept > self.now
        self.swept, self.swept_expires = self.now, self.ttl_now + DAY_MS
        self.processes = {name: at for name, at in self.processes.items() if at > self.now - 60_000}
        did = [0, 0, 0, 0]
        for owner in owners:
            self._sweep_owner(owner, still, did)
        for row in rows:
            self._sweep_leases(asked, row, still, did)
            tend(self.rooms[row.model], {name: self.load(name) for name in self._heads_of_groups(row.model)})
            self._sweep_waits(asked, row, still, did)
        return did

    def _heads_of_groups(self, model: str) -> list[str]:
        heads = (head_of(self.rooms[model], group) for group in self.rooms[model].groups)
        return [head for head in heads if head is not None]

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
            self.leave_room(job)
            self.cancelled(job)
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
                self.end_cancelled(job)
            elif job_id in self.logs:
                self.fail(job, str(asked.lost_wire))
            elif job.tries >= ADMIT_LIMITS[job.model].max_tries:
                self.fail(job, str(asked.exhausted_wire))
            else:
                self.wait_again(job, job.tries)

    def _sweep_waits(self, asked: SweepArguments, row: SweepRow, still: bool, did: list[int]) -> None:
        room = self.rooms[row.model]
        limit = self.now + (row.max_wait_ms if self.was_set_back else max(row.max_wait_ms, KEEP_MS))
        room.waits = {name: min(at, limit) if at < math.inf else at for name, at in room.waits.items()}
        late = sorted((at, name) for name, at in room.waits.items() if at <= self.now)
        self._give_up(room, [name for _, name in late], str(self._overdue_wire(asked, row)), did)
        if room.met_lost:
            room.members.clear()
            for lane, ids in room.lanes.items():
                if not ids:
                    room.tags[lane].clear()
                regroup(room, lane, [job for job_id in ids if (job := self.load(job_id)) is not None])
            room.member_tags = {group: tags for group, tags in room.member_tags.items() if room.members.get(group)}
            room.met_lost = False
            room.lost.clear()
        if not room.waits or still:
            room.unserved = None
            return
        heard = max([room.left_at, *room.workers.values()])
        if self.now - heard > asked.grace_ms and not row.waits_unserved:
            self._unserved(room, asked, did)
            return
        room.unserved = None
        has_room = len(room.running) < row.concurrency and not room.held and room.state == "active"
        if has_room and room.tickets < min(max(1, self.live(row.model)), len(room.waits)):
            self.push(row.model)
            did[3] += 1

    def _overdue_wire(self, asked: SweepArguments, row: SweepRow) -> bytes:
        is_starting = self.rooms[row.model].held or (row.waits_unserved and not self.live(row.model))
        return asked.not_started_wire if is_starting else asked.timeout_wire

    def _unserved(self, room: Room, asked: SweepArguments, did: list[int]) -> None:
        if room.unserved is None:
            room.unserved = self.now
        else:
            judged = sorted((at, name) for name, at in room.waits.items() if at < math.inf)
            self._give_up(room, [name for _, name in judged], str(asked.no_worker_wire), did)

    def _give_up(self, room: Room, ids: Sequence[str], wire: str, did: list[int]) -> None:
        for job_id in ids:
            job = self.load(job_id)
            if job is not None and job.state == "waiting":
                self.leave_room(job)
                self.fail(job, wire)
                did[1] += 1
            else:
                room.waits.pop(job_id, None)
                room.met_lost = True
                for lane in LANES:
                    room.lanes[lane].pop(job_id, None)
