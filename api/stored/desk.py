"""What callers do with their stored completions. Only what lies below the caller's own folder is ever looked at.

An answer that has ended a moment ago may still be in Redis; it is shown from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from api.stored import keys
from api.stored.collector import Collector
from api.stored.completions import Page, StoredCompletions
from api.stored.making import Made
from api.stored.record import StoredRecord
from shared.errors import Conflict, NotFound
from shared.files import tenant_folder
from shared.kinds.common.answers import loads
from shared.redis import RedisRefused, RedisUnavailable
from shared.room.admission import broker_error
from shared.room.stored import Known, StoredJobs
from shared.token_settings import TokenSettings

CATCH_UP_SECONDS: Final = 1.0


class StoredDesk:
    """The stored completions of all tenants, each caller's own at hand. Every method may raise StoreError."""

    def __init__(self, jobs: StoredJobs, completions: StoredCompletions, collector: Collector) -> None:
        self.jobs = jobs
        self.completions = completions
        self.collector = collector

    async def get(self, token: TokenSettings, completion_id: str) -> StoredRecord:
        """Return a record; raises NotFound, or Conflict while it is being made."""
        found = await self._find(token, completion_id)
        return found.record if isinstance(found, Made) else found

    async def messages(self, token: TokenSettings, completion_id: str) -> list[dict[str, Any]]:
        """Return what was asked; raises as `get`."""
        found = await self._find(token, completion_id)
        if isinstance(found, Made):
            messages: list[dict[str, Any]] = loads(found.messages)
            return messages
        return await self.completions.messages(tenant_folder(token.name), completion_id)

    async def _find(self, token: TokenSettings, completion_id: str) -> StoredRecord | Made:
        """Return what the store has, or what it is to have; raises as `get`."""
        if keys.job_id(completion_id) is not None:
            for _ in range(2):  # it may be written between the look at the store and that at Redis
                record = await self.completions.get(tenant_folder(token.name), completion_id)
                found = record or await self._made(token, completion_id)
                if found is not None:
                    return found
        raise not_found(completion_id)

    async def _made(self, token: TokenSettings, completion_id: str) -> Made | None:
        """Return what is to be stored of an ended job, None where nothing is; raises Conflict as `_known`."""
        known = await self._known(token, completion_id)
        if known is None or known.body is None:  # what was asked goes first once it is written
            return None
        try:
            return await self.collector.made(known)
        except Exception:  # it has just gone, or cannot be read: who is to store it says so in the log
            return None

    async def _known(self, token: TokenSettings, completion_id: str) -> Known | None:
        """Return an ended job that waits for the store; raises Conflict for one that has not ended."""
        try:
            known = await self.jobs.look(completion_id.removeprefix(keys.PREFIX))
        except ValueError:  # it cannot be read, and will not be stored
            return None
        except (RedisUnavailable, RedisRefused) as error:
            raise broker_error(error) from error
        if known is None or known.tenant != token.name:
            return None
        if known.state != "ended":
            message = (
                f"The completion is not ready yet. Retry later, or read GET /chat/completions/{completion_id}/events."
            )
            raise Conflict(message, code="completion_in_progress", retry_after=1)
        return known

    async def page(
        self, token: TokenSettings, *, after: str | None, limit: int, newest_first: bool, model: str | None,
        metadata: Mapping[str, str],
    ) -> Page:  # fmt: skip
        """Return the completions behind `after`; raises NotFound for an `after` that is none."""
        if after is not None and keys.job_id(after) is None:
            raise NotFound(f"No completion '{after[:64]}' to list from. Send the last id of a page.", param="after")
        await self.collector.catch_up(CATCH_UP_SECONDS)
        return await self.completions.page(
            tenant_folder(token.name), after=after, limit=limit, newest_first=newest_first, model=model,
            metadata=metadata,
        )  # fmt: skip

    async def change(self, token: TokenSettings, completion_id: str, metadata: dict[str, str]) -> StoredRecord:
        """Give a completion other metadata; raises as `get`."""
        await self.get(token, completion_id)
        tenant = tenant_folder(token.name)
        try:
            async with self.collector.alone():
                record = await self.completions.get(tenant, completion_id)
                if record is None:  # not written yet: this one need not wait for all that ended before it
                    made = await self._made(token, completion_id)
                    if made is None:
                        raise not_found(completion_id)
                    await self.completions.keep(tenant, made)
                    record = made.record
                return await self.completions.change(tenant, record, metadata)
        except (RedisUnavailable, RedisRefused) as error:
            raise broker_error(error) from error

    async def delete(self, token: TokenSettings, completion_id: str) -> None:
        """Forget a completion; one that is being made is cancelled. Raises NotFound."""
        job_id = keys.job_id(completion_id)
        if job_id is None:
            raise not_found(completion_id)
        tenant = tenant_folder(token.name)
        try:
            async with self.collector.alone():
                record = await self.completions.get(tenant, completion_id)
                if record is not None:
                    await self.completions.delete(tenant, record)
                dropped = await self.jobs.drop([job_id], token.name)
        except (RedisUnavailable, RedisRefused) as error:
            raise broker_error(error) from error
        if record is None and dropped == b"n":
            raise not_found(completion_id)


def not_found(completion_id: str) -> NotFound:
    """Return what is said of a completion that the token does not have."""
    message = f"No stored completion found with id '{completion_id[:64]}'. Only those made with `store: true` are kept."
    return NotFound(message, param="completion_id")
