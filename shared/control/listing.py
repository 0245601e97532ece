"""Jobs page by page, at a cost that does not grow with the queue: of a page at most `LOOKED` jobs are looked at.

What runs comes first, the oldest first: never more than there are slots. Then what waits, whose longest wait ends
first, which is as a rule the oldest; with a lane in the order of their turns. What has ended comes only if asked for,
the newest first; of the batch lane these are the runs of lines, each try for itself. A page whose filter few match may
be short, or empty, and more may follow: `next` says where.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from shared import keys
from shared.catalogue import Catalogue
from shared.control.jobs import ROWS, Job, JobControl, JobFilter, is_meant, job_id_of, now_ms
from shared.control.problems import BadFilter
from shared.control.story import Story, job_of
from shared.ended.outcomes import FAILED, GOOD, OF_REQUESTS, REFUSED, REQUESTS, RUNS
from shared.ended.reader import EndedReader
from shared.redis import RedisClient
from shared.room.scripts import BROWSE, BrowseArguments, ModelRow
from shared.scripting import Scripts

LOOKED: Final = 2_000
"""Jobs that are looked at for one page."""
ENDED: Final = "ended"
OUTCOMES: Final = {"succeeded": GOOD, "refused": REFUSED, "failed": FAILED}
"""What ended jobs can be asked for by: 200; 4xx and clients that left; 5xx and streams that broke."""
_MS: Final = re.compile(r"[0-9]{1,15}")
_SCORE: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?(e-?[0-9]{1,3})?|inf")
"""As Redis writes one, without the plus of an exponent. Python and Redis read more than that, and not the same."""


@dataclass(slots=True)
class Page:
    """Some jobs that match."""

    stories: list[Story] = field(default_factory=list)
    next: str | None = None
    """Where the next page begins; None where nothing more is left."""
    looked: int = 0
    """How many jobs were looked at."""
    waiting: int | None = None
    """How many wait in all lanes and models that the filter names; None where that was not asked."""


class Listing:
    """Lists jobs. Raises NoSuch, BadFilter, RedisUnavailable or RedisRefused."""

    def __init__(self, client: RedisClient, catalogue: Catalogue, most_looked: int = LOOKED) -> None:
        self._most_looked = most_looked
        self._client = client
        self._scripts = Scripts(client)
        self._catalogue = catalogue
        self._jobs = JobControl(client, catalogue)
        self._ended = EndedReader(client)

    async def page(self, wanted: JobFilter, after: str = "", limit: int = 100, outcome: str | None = None) -> Page:
        """Return the first jobs that match, or those behind `after`: the `next` of the page before, or a job's id."""
        if outcome is not None and (outcome not in OUTCOMES or wanted.state != ENDED):
            raise BadFilter(f"outcome: must be one of {', '.join(OUTCOMES)}, beside the state 'ended'")
        if wanted.state == ENDED:
            self._jobs.check(wanted, ENDED)
            return await self._page_of_ended(wanted, after, limit, outcome)
        self._jobs.check(wanted)
        place = await self._place(after, wanted) if after else ("running", "", "")
        page = Page()
        if place[0] == "running":
            if wanted.state in (None, "running"):
                place = await self._add_running(page, wanted, place[2], limit)
            else:
                place = ("waiting", "", "")
        if place[0] == "waiting" and wanted.state != "running":
            await self._add_waiting(page, wanted, place[1], place[2], limit)
        return page

    # --- what runs --------------------------------------------------------------------------------------------

    async def _add_running(self, page: Page, wanted: JobFilter, after: str, limit: int) -> tuple[str, str, str]:
        """Add what runs; returns where to go on."""
        calls = (self._client.call("ZRANGE", keys.running(model), 0, -1) for model in self._models(wanted))
        running: list[list[bytes]] = await asyncio.gather(*calls)
        ids = sorted(job_id for one in running for name in one if (job_id := name.decode()) > after)
        now = await now_ms(self._client)
        for at in range(0, len(ids), ROWS):
            rows = ids[at : at + ROWS]
            for job_id, job in zip(rows, await self._jobs.describe(rows), strict=True):
                page.looked += 1
                if job is not None and job.state in ("running", "cancelled") and is_meant(job, wanted, now):
                    page.stories.append(Story(job=job))
                if len(page.stories) >= limit or page.looked >= self._most_looked:
                    page.next = _cursor("running", "", job_id)
                    return "full", "", ""
        return "waiting", "", ""

    # --- what waits -------------------------------------------------------------------------------------------

    async def _add_waiting(self, page: Page, wanted: JobFilter, score: str, after: str, limit: int) -> None:
        models = self._models(wanted)
        if wanted.state == "held":
            held = await asyncio.gather(*(self._client.call("HEXISTS", keys.room(name), "held") for name in models))
            models = [name for name, is_held in zip(models, held, strict=True) if is_held]
        now = await now_ms(self._client)
        while True:
            asked = BrowseArguments(wanted.lane or "", score, after, min(ROWS, limit - len(page.stories) + 1))
            page.waiting, *flat = await self._scripts.run(BROWSE, asked, map(ModelRow, models))
            found = [(one.decode(), at.decode()) for one, at in zip(flat[::2], flat[1::2], strict=True)]
            if not found:
                page.next = None
                return
            described = await self._jobs.describe([job_id for job_id, _ in found])
            for (job_id, at), job in zip(found, described, strict=True):
                if len(page.stories) >= limit or page.looked >= self._most_looked:
                    page.next = _cursor("waiting", score, after)
                    return
                score, after = at, job_id
                page.looked += 1
                if job is not None and job.state == "waiting" and is_meant(job, wanted, now):
                    page.stories.append(Story(job=job))
            page.next = _cursor("waiting", score, after)

    def _models(self, wanted: JobFilter) -> Sequence[str]:
        """Return the models that are meant; those too that were removed by a reload."""
        return [self._catalogue.names[wanted.model]] if wanted.model is not None else [*self._catalogue.models]

    async def _place(self, after: str, wanted: JobFilter) -> tuple[str, str, str]:
        """Return where a cursor, or a job that is given by its id, stands: what it is in, its score and its id."""
        kind, _, rest = after.partition("~")
        if rest:
            score, _, job_id = rest.partition("~")
            if kind not in ("running", "waiting") or (score and not _SCORE.fullmatch(score)):
                raise _bad_cursor()
            return kind, score, job_id_of(job_id) if job_id else ""
        job_id = job_id_of(after)
        (job,) = await self._jobs.describe([job_id])
        if job is not None and job.state in ("running", "cancelled"):
            return "running", "", job_id
        if job is not None and job.state == "waiting":
            place = keys.lane(job.lane, job.model) if wanted.lane is not None else keys.waits(job.model)
            at = await self._client.call("ZSCORE", place, job_id)
            if at is not None:
                return "waiting", at.decode(), job_id
        raise _bad_cursor()

    # --- what has ended ---------------------------------------------------------------------------------------

    async def _page_of_ended(self, wanted: JobFilter, after: str, limit: int, outcome: str | None) -> Page:
        before = None
        if after:
            kind, _, rest = after.partition("~")
            at, _, name = rest.partition("~")
            if kind != ENDED or not _MS.fullmatch(at):
                raise _bad_cursor()
            job_id_of(name.partition("/")[0])
            before = (int(at), name)
        own = self._catalogue.names[wanted.model] if wanted.model is not None else None
        outcomes = OF_REQUESTS if outcome is None else (OUTCOMES[outcome],)
        page, now = Page(), await now_ms(self._client)
        last = ""
        # Of a batch's lines only the workers tell: nobody asked an API process for them.
        what = RUNS if wanted.lane == "batch" else REQUESTS
        async for past in self._ended.ends(outcomes, before, what):
            if len(page.stories) >= limit or page.looked >= self._most_looked:
                page.next = last
                break
            job = job_of(past)
            page.looked += 1
            last = _cursor(ENDED, str(past.at_ms), past.name)
            if _has_ended_as(job, wanted, own, now):
                page.stories.append(Story(job=job, runs=[past]) if what == RUNS else Story(job=job, end=past))
        return page


def _has_ended_as(job: Job, wanted: JobFilter, model: str | None, now: int) -> bool:
    age_ms = (wanted.older_than_seconds or 0) * 1000
    return (
        model in (None, job.model)
        and wanted.token in (None, job.token)
        and wanted.group in (None, job.group)
        and wanted.lane in (None, job.lane)
        and now - job.admitted >= age_ms
    )


def _cursor(kind: str, score: str, job_id: str) -> str:
    return f"{kind}~{score.replace('+', '')}~{job_id}"


def _bad_cursor() -> BadFilter:
    return BadFilter("after: is no `next` of such a list, and no request that waits or runs; list anew from the start")
