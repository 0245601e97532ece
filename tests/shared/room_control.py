"""The model of what operators say: a model held or let go, jobs ended and moved."""

from __future__ import annotations

from tests.shared.room_state import Job, Rooms

STATES = {"pause": "paused", "drain": "draining", "retire": "retired", "resume": "active"}


class Control(Rooms):
    """What `set_model`, `end_jobs` and `move_jobs` do."""

    def set_model(self, model: str, action: str) -> list[str | int]:
        """Hold a model, or let it go."""
        room, wanted = self.rooms[model], STATES[action]
        before, room.state = room.state, wanted
        if wanted == "active" and room.waits:
            for _ in range(max(1, self.live(model))):
                self.push(model)
        return [before, wanted, len(room.running), len(room.waits)]

    def end_job(self, job_id: str, wire: str) -> str:
        """End a job, whoever waits for it."""
        job = self.load(job_id)
        if job is None:
            return "n"
        if job.state == "ended" or job.is_cancelled:
            return "e"
        if job.state == "running":
            job.is_cancelled, job.stopped = True, wire
            self.told.append(("", job_id))
            return "r"
        self.leave_room(job)
        self.fail(job, wire, "cancelled")
        return "w"

    def move_job(self, job_id: str, lane: str) -> str:
        """Have a job wait in another lane."""
        job = self.load(job_id)
        if job is None:
            return "n"
        if job.state != "waiting":
            return "e" if job.state == "ended" else "r"
        if job.lane == lane:
            return "s"
        self.leave_room(job)
        job.asked = job.asked._replace(lane=lane)
        self.enter(job)
        return "m"

    def enter(self, job: Job) -> None:
        """Have a job wait as one that came now."""
        self.open_lane(job)
        tags, tenant = self.tags_of(job), job.asked.tenant
        clock, finish = tags.get(":clock", 0.0), tags.get(tenant, 0.0)
        job.tag = max(clock, finish)
        owed = tags.get(f":owed:{tenant}", 0.0) if finish >= clock else 0.0
        self.set_finish(tags, job, job.tag + job.asked.cost / job.asked.weight + owed, job.tag)
        self.wait(job, job.tag)
