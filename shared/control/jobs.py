"""Jobs listed, shown, ended and moved: by id, or all that match a filter.

A filter is applied to what waits and runs of its models. Ids are read in slices, records in rows of `ROWS`, and acted
on in rows of the same length, so that no call holds Redis up; what ended meanwhile is told, not counted as done.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from shared import keys
from shared.catalogue import Catalogue
from shared.control.actor import Actor
from shared.control.audit import say
from shared.control.problems import BadFilter, NoSuch
from shared.holds import first_hold
from shared.jobs import request_id
from shared.lanes import LANES
from shared.protocol import NO_NONCE
from shared.redis import RedisClient, Reply
from shared.room.scripts import (
    DESCRIBE,
    END_JOBS,
    MOVE_JOBS,
    EndJobsArguments,
    IdRow,
    MoveJobsArguments,
    NoArguments,
)
from shared.room.wires import STOPPED_WIRE
from shared.scripting import Scripts, flag

ROWS: Final = 200
"""Jobs in one call."""
SLICE: Final = 2_000
"""Ids in one reading."""
STATES: Final = ("waiting", "held", "running")
"""Of what waits or runs; who waits for a model that is held counts as held, and as waiting."""
_ID: Final = re.compile(r"(?:[a-z]{2,12}[-_]){0,2}([0-9a-f]{32})")
_ENDED: Final = {"w": "cancelled", "r": "cancelled", "e": "had ended", "n": "unknown"}
_MOVED: Final = {"m": "moved", "s": "was there", "r": "runs already", "e": "had ended", "n": "unknown"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs are meant; what is not given does not matter."""

    model: str | None = None
    """Its own name or an alias."""
    token: str | None = None
    group: str | None = None
    lane: str | None = None
    state: str | None = None
    older_than_seconds: float | None = None
    """Since they were accepted."""

    def text(self) -> str:
        """Return it as the audit log has it."""
        told = [(name, getattr(self, name)) for name in self.__slots__]
        return " ".join(f"{name}={value}" for name, value in told if value is not None) or "all"

    def is_empty(self) -> bool:
        """Whether it means every job there is."""
        return self.text() == "all"


class Job(NamedTuple):
    """What is known of a job, never a prompt; times in Unix milliseconds, 0 where there was none yet."""

    id: str
    token: str
    group: str
    model: str
    lane: str
    state: str
    """waiting, running, cancelled (its worker has not heard yet), ended."""
    tries: int
    admitted: int
    taken: int
    begun: int
    ended: int
    cost: int
    """Tokens it was estimated at."""
    bytes: int
    sink: str
    kind: str
    held: str = ""
    """What holds its whole model, of one that waits."""
    mark: str = NO_NONCE
    """Of its attempt: says which worker runs it."""

    def as_json(self) -> dict[str, Any]:
        """Return it as commands and the API tell it."""
        return {
            "id": request_id(self.id),
            "object": "job",
            "kind": self.kind or None,
            "model": self.model,
            "token": self.token,
            "group": self.group or None,
            "lane": self.lane,
            "state": self.state,
            "held": first_hold(self.held) or None,
            "batch": self.sink if self.sink.startswith("batch_") else None,
            "attempts": self.tries,
            "estimated_tokens": self.cost,
            "bytes": self.bytes,
            "timeline": {
                "accepted": self.admitted / 1000,
                "taken": self.taken / 1000 or None,
                "first_token": self.begun / 1000 or None,
                "ended": self.ended / 1000 or None,
            },
        }


def job_id_of(given: str) -> str:
    """Return a job's id of a request's or answer's; raises NoSuch for what can be none."""
    found = _ID.fullmatch(given)
    if found is None:
        raise NoSuch(f"{given[:64]!r} is no id of a request: it is 32 hex digits, as `x-request-id` tells them")
    return found[1]


class JobControl:
    """Acts on jobs. Every method raises NoSuch, BadFilter, RedisUnavailable or RedisRefused."""

    def __init__(self, client: RedisClient, catalogue: Catalogue) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._catalogue = catalogue

    async def show(self, given_id: str) -> Job:
        """Return a job, until a minute after its end; `shared/control/story.py` tells more, and for longer."""
        job_id = job_id_of(given_id)
        (found,) = await self.describe([job_id])
        if found is None:
            raise NoSuch(f"no job {request_id(job_id)}: it ended more than a minute ago, or never was")
        return found

    async def describe(self, job_ids: Sequence[str]) -> list[Job | None]:
        """Return what is known of each."""
        reply = await self._scripts.run(DESCRIBE, NoArguments(), map(IdRow, job_ids))
        return [_job(row) for row in reply]

    async def matching(self, wanted: JobFilter, after: str = "") -> AsyncIterator[Job]:
        """Return the jobs that wait or run and match, the oldest first; with `after` those behind that id."""
        self.check(wanted)
        ids = sorted(one for one in await self._ids(wanted) if one > after)
        now = await now_ms(self._client)
        for at in range(0, len(ids), ROWS):
            for job in await self.describe(ids[at : at + ROWS]):
                if job is not None and job.state != "ended" and is_meant(job, wanted, now):
                    yield job

    def check(self, wanted: JobFilter, *more_states: str) -> None:
        """Raise BadFilter or NoSuch for a filter that nothing can match."""
        if wanted.lane is not None and wanted.lane not in LANES:
            raise BadFilter(f"lane: must be one of {', '.join(LANES)} (is {wanted.lane!r})")
        states = (*STATES, *more_states)
        if wanted.state is not None and wanted.state not in states:
            raise BadFilter(f"state: must be one of {', '.join(states)} (is {wanted.state!r})")
        if wanted.model is not None and wanted.model not in self._catalogue.names:
            known = ", ".join(self._catalogue.settings.models)
            raise NoSuch(f"no model is called {wanted.model!r}; there are: {known}")

    async def _ids(self, wanted: JobFilter) -> set[str]:
        """Return the ids of all that wait or run; of models that were removed by a reload too."""
        names = [self._catalogue.names[wanted.model]] if wanted.model is not None else [*self._catalogue.models]
        found = set[str]()
        for name in names:
            places = [keys.lane(lane, name) for lane in LANES if wanted.lane in (None, lane)]
            places = [] if wanted.state == "running" else places
            if wanted.state not in ("waiting", "held"):
                places.append(keys.running(name))
            for place in places:
                found |= await self._members(place)
        return found

    async def _members(self, key: str) -> set[str]:
        found, start = set[str](), 0
        while True:
            ids: list[bytes] = await self._client.call("ZRANGE", key, start, start + SLICE - 1)
            found |= {one.decode() for one in ids}
            if len(ids) < SLICE:
                return found
            start += SLICE // 2  # some may have left meanwhile, and the others moved up

    async def cancel(
        self, job_ids: Sequence[str], actor: Actor, target: str, *, quiet: bool = False
    ) -> list[tuple[str, str]]:
        """End jobs; returns each id with what became of it."""
        asked = EndJobsArguments(actor.by, actor.via, target, STOPPED_WIRE, flag(quiet))
        done = [*zip(job_ids, map(_ENDED.get, (await self._in_rows(END_JOBS, asked, job_ids)).decode()), strict=True)]
        return self._said(actor, "job.cancel", target, done, quiet=quiet)

    async def move(self, job_ids: Sequence[str], lane: str, actor: Actor, target: str) -> list[tuple[str, str]]:
        """Have waiting jobs wait in another lane; returns each id with what became of it."""
        if lane not in LANES:
            raise BadFilter(f"lane: must be one of {', '.join(LANES)} (is {lane!r})")
        asked = MoveJobsArguments(actor.by, actor.via, target, lane)
        done = [*zip(job_ids, map(_MOVED.get, (await self._in_rows(MOVE_JOBS, asked, job_ids)).decode()), strict=True)]
        return self._said(actor, "job.move", f"{target} to {lane}", done)

    async def _in_rows(self, script: Any, asked: tuple[Any, ...], job_ids: Sequence[str]) -> bytes:
        parts = [job_ids[at : at + ROWS] for at in range(0, len(job_ids), ROWS)]
        return b"".join([await self._scripts.run(script, asked, map(IdRow, part)) for part in parts])

    def _said(
        self, actor: Actor, action: str, target: str, done: Iterable[tuple[str, str | None]], *, quiet: bool = False
    ) -> list[tuple[str, str]]:
        told = [(job_id, what or "unknown") for job_id, what in done]
        counts = counted(told)
        if not quiet or "cancelled" in counts:
            say(actor, action, target, ", ".join(f"{number} {what}" for what, number in counts.items()))
        return told


def is_meant(job: Job, wanted: JobFilter, now_ms: int) -> bool:
    """Return whether a job that waits or runs matches at this moment of Redis's clock."""
    return (
        wanted.token in (None, job.token)
        and wanted.group in (None, job.group)
        and wanted.lane in (None, job.lane)
        and (wanted.state is None or (wanted.state != "running") == (job.state == "waiting"))
        and (wanted.state != "held" or bool(job.held))
        and (wanted.older_than_seconds is None or now_ms - job.admitted >= wanted.older_than_seconds * 1000)
    )


async def now_ms(client: RedisClient) -> int:
    """Return Redis's clock in Unix milliseconds."""
    seconds, micros = await client.call("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


def counted(done: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Return how often each outcome stands there."""
    return dict(Counter(what for _, what in done))


def _job(row: Sequence[Reply]) -> Job | None:
    if len(row) == 1:
        return None
    told: list[Any] = [part.decode() if isinstance(part, bytes) else int(part) for part in row]
    return Job(*told)
