"""What there is to tell of one job: its record while there is one, how its runs ended, what its caller was answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared import keys
from shared.catalogue import Catalogue
from shared.control.jobs import Job, JobControl, job_id_of
from shared.control.problems import NoSuch
from shared.ended.reader import EndedReader, Past
from shared.holds import Hold, first_hold
from shared.jobs import request_id
from shared.protocol import LIVE_WORKER_MS, NO_NONCE
from shared.redis import RedisClient
from shared.room.leases import MARK_DIGITS, mark_of
from shared.room.scripts import STAND, StandArguments, StandRow
from shared.scripting import Scripts

NO_WORKER: Final = "no_worker"
"""Why a job waits, beside the words of `shared/holds.py`: no live worker serves its model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """One job, as far as it is known."""

    job: Job
    end: Past | None = None
    """What its caller was answered; None where that is not known, or not kept any more."""
    runs: Sequence[Past] = ()
    """Its runs that have ended, the first one first."""
    worker: str = ""
    """Which one runs it now."""
    waits_for: str = ""
    """Why it waits."""
    before: int | None = None
    """How many go before it, of one that waits."""

    def as_json(self) -> dict[str, Any]:
        """Return it as commands and the API tell it; times in Unix seconds."""
        return {
            **self.job.as_json(),
            "kind": self.job.kind or self._kept("kind"),
            "held": self.waits_for or first_hold(self.job.held) or None,
            "position": self.before,
            "worker": self.worker or None,
            "outcome": self.outcome(),
            "runs": [run_json(run) for run in self.runs],
        }

    def outcome(self) -> dict[str, Any] | None:
        """Return how it ended: as its caller was answered, else as its last run ended, such as a batch's line."""
        if self.job.state != "ended":
            return None
        if self.end is not None:
            return {**outcome_json(self.end.facts), "answered": True}
        last = next((run for run in reversed(self.runs) if "status" in run.facts), None)
        return {**outcome_json(last.facts), "answered": False} if last is not None else None

    def _kept(self, name: str) -> Any:
        """Return what its end or its runs say of it, of which the record says nothing any more."""
        kept = [self.end, *reversed(self.runs)]
        return next((past.facts[name] for past in kept if past is not None and name in past.facts), None)


def outcome_json(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of an end, for people and programs."""
    joined = facts.get("joined")
    return {
        "status": facts.get("status"),
        "code": facts.get("code"),
        "seconds": _seconds(facts.get("ms")),
        "waited_seconds": _seconds(facts.get("queue_ms")),
        "waited_for": facts.get("held"),
        "first_token_seconds": _seconds(facts.get("first_ms")),
        "run_seconds": _seconds(facts.get("run_ms")),
        "input_tokens": facts.get("input_tokens"),
        "output_tokens": facts.get("output_tokens"),
        "attempts": facts.get("attempts"),
        "backend": facts.get("backend"),
        "trace": facts.get("trace"),
        "answered_by": request_id(joined) if isinstance(joined, str) else None,
    }


def run_json(run: Past) -> dict[str, Any]:
    """Return one run that has ended."""
    facts = run.facts
    began_ms = run.at_ms - _number(facts.get("ms"))
    return {
        "attempt": int(run.name.rpartition("/")[2]),
        "worker": facts.get("worker"),
        "began": began_ms / 1000,
        "seconds": _seconds(facts.get("ms")),
        "status": facts.get("status"),
        "code": facts.get("code"),
        "stopped": facts.get("why"),
        "input_tokens": facts.get("input_tokens"),
        "output_tokens": facts.get("output_tokens"),
        "calls": [
            {
                "backend": call.get("backend"),
                "began": (began_ms + _number(call.get("at_ms"))) / 1000,
                "seconds": _seconds(call.get("ms")),
                "status": call.get("status"),
                "code": call.get("code"),
            }
            for call in facts.get("calls", ())
        ],
    }


def job_of(past: Past) -> Job:
    """Return what a request that has ended says of its job, of which there is no record any more."""
    facts, job_id = past.facts, past.name.partition("/")[0]
    is_run = "/" in past.name
    waited = facts.get("queue_ms")
    admitted = past.at_ms - _number(facts.get("ms")) - (_number(waited) if is_run else 0)
    first = facts.get("first_ms")
    return Job(
        id=job_id,
        token=facts.get("token") or "",
        group=facts.get("group") or "",
        model=facts.get("model") or "",
        lane=facts.get("lane") or "",
        state="ended",
        tries=int(past.name.partition("/")[2]) if is_run else _number(facts.get("attempts")),
        admitted=admitted,
        taken=admitted + waited if type(waited) is int else 0,
        begun=admitted + first if type(first) is int else 0,
        ended=past.at_ms,
        cost=0,
        bytes=0,
        sink="",
        kind=facts.get("kind") or "",
    )


class Stories:
    """Finds what there is to tell. Methods raise NoSuch, RedisUnavailable or RedisRefused."""

    def __init__(self, client: RedisClient, catalogue: Catalogue) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._catalogue = catalogue
        self._jobs = JobControl(client, catalogue)
        self._ended = EndedReader(client)

    async def show(self, given_id: str) -> Story:
        """Return a job by the id of its request or its answer: while it lives, and for up to an hour after its end."""
        job_id = job_id_of(given_id)
        (record,), end, runs = await asyncio.gather(
            self._jobs.describe([job_id]), self._ended.request(job_id), self._ended.runs(job_id)
        )
        joined = end.facts.get("joined") if end is not None else None
        if isinstance(joined, str) and not runs:
            runs = await self._ended.runs(joined)
        if record is None:
            past = end or (runs[-1] if runs else None)
            if past is None:
                raise NoSuch(f"no job {request_id(job_id)}: it ended too long ago to be kept, or never was")
            return Story(job=job_of(past), end=end, runs=runs)
        if record.state == "waiting":
            before, reason = await self._stand(record)
            return Story(job=record, end=end, runs=runs, before=before, waits_for=reason)
        worker = await self._worker_of(record) if record.state != "ended" else ""
        return Story(job=record, end=end, runs=runs, worker=worker)

    async def _stand(self, job: Job) -> tuple[int | None, str]:
        """Return how many go before a waiting job, and why it waits."""
        model = self._catalogue.models.get(job.model)
        if model is None:  # of a configuration that is no more
            return None, first_hold(job.held)
        kept = model.kept_from_batch(model.places, time.time())
        shown = model.places if model.preempt_batch_after_ms else kept
        asked = StandArguments(job.model, model.asked(model.places), shown, self._catalogue.settings.lanes.text)
        calls = (
            self._scripts.run(STAND, asked, [StandRow(job.id, job.lane)]),
            self._client.call("SCARD", keys.PREFIXES["batch_running"] + job.model),
            self._client.call("ZREVRANGE", keys.workers(job.model), 0, 0, "WITHSCORES"),
            self._client.call("TIME"),
        )
        (_, before), batch, last_word, now = await asyncio.gather(*calls)
        reason = first_hold(job.held)
        if not reason and (not last_word or int(now[0]) * 1000 - float(last_word[1]) > LIVE_WORKER_MS):
            reason = NO_WORKER
        if not reason:
            is_shut = job.lane == "batch" and kept and int(batch) + kept >= model.places
            reason = Hold.LANE if is_shut else Hold.ROOM
        return (before if before >= 0 else None), str(reason)

    async def _worker_of(self, job: Job) -> str:
        """Return the name of the worker that holds a job's attempt; empty where it has not been heard of lately."""
        if job.mark == NO_NONCE:
            return ""
        workers, processes = await asyncio.gather(
            self._client.call("ZRANGE", keys.workers(job.model), 0, -1),
            self._client.call("ZRANGE", keys.PROCESSES, 0, -1),  # those that drain too
        )
        names = [one.decode() for one in workers] + [one.decode().partition(" ")[2] for one in processes]
        return next((name for name in names if mark_of(name) == job.mark[:MARK_DIGITS]), "")


def _seconds(ms: object) -> float | None:
    return ms / 1000 if type(ms) is int else None


def _number(given: object) -> int:
    return given if type(given) is int else 0
