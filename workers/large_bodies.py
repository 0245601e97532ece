"""The bodies of jobs that did not come with the job: fetched when their run begins, a few of the largest at a time.

A large body is let go of as soon as its backend has it. A run that is tried again fetches it once more: Redis keeps it
as long as the job lives.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from shared.errors import JobLost
from shared.jobs import TakenJob
from shared.places import Place, Places
from shared.settings import Settings


class LargeBodies:
    """Fetches bodies for the runs of a process."""

    def __init__(self, fetch: Callable[[str], Awaitable[bytes | None]], settings: Settings) -> None:
        """Take what fetches a job's body by the job's id."""
        self._fetch = fetch
        self._large_bytes = settings.large_body_bytes
        self._places = Places(settings.large_bodies)

    async def fetch(self, job: TakenJob) -> Place | None:
        """Put the body into the job; returns the place it takes if it is large.

        Raises JobLost, and what Redis raises.
        """
        place = await self._places.take(job.model) if job.size > self._large_bytes else None
        try:
            job.body = await self._fetch(job.id)
            if job.body is None:
                raise JobLost("The queue lost this request's body. Retry.")
        except BaseException:
            if place is not None:
                place.give_back()
            raise
        return place
