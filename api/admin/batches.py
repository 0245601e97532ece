"""Batches of every token, for operators: listed, shown, cancelled, and run again in the name of their token."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

import orjson

from api.batches.desk import BatchDesk, Shown
from api.tokens import TokenTable
from shared.batches import keys
from shared.batches.open import OpenBatch, OpenBatches, row_of
from shared.batches.record import BatchRecord, Status, load, public
from shared.control import audit
from shared.control.actor import Actor
from shared.errors import Conflict, NotFound
from shared.files import tenant_folder
from shared.redis import RedisClient, RedisRefused, RedisUnavailable
from shared.room.admission import broker_error
from shared.store import Store
from shared.token_settings import TokenSettings

READ_SECONDS: Final = 5.0
"""Between two readings of the names of all batches, however many ask."""
AT_ONCE: Final = 20
MOST_LOOKED: Final = 500
"""Records that are read for one page."""
_LISTED: Final = re.compile(r"listed-batches/([^/]+)/([0-9a-f]{14})-(batch_[0-9a-f]{32})")

State = Literal["open", "ended", "all"]


class _Name(NamedTuple):
    """A batch in the list of all: they sort by time, the newest first."""

    turned_us: str
    id: str
    tenant: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShown:
    """One batch, as far as it is known."""

    row: OpenBatch
    batch: dict[str, Any]
    """OpenAI's object."""
    may_retry: bool

    def as_json(self) -> dict[str, Any]:
        """Return it as the API tells it."""
        return {"object": "batch", **self.row.as_json(), "may_retry": self.may_retry, "batch": self.batch}


@dataclass(frozen=True, slots=True)
class BatchAction:
    """What became of an action."""

    id: str
    outcome: str
    """cancelling, was cancelling, had ended; retried, was retried."""
    new_id: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as the API tells it."""
        return {"id": self.id, "object": "batch.action", "outcome": self.outcome, "new_id": self.new_id}


class AllBatches:
    """One process's. Methods raise NotFound, Conflict, RateLimited, StoreError and BrokerUnavailable."""

    def __init__(self, store: Store, client: RedisClient, desk: BatchDesk, tokens: TokenTable) -> None:
        self._store = store
        self._client = client
        self._desk = desk
        self._tokens = tokens
        self._open = OpenBatches(store, client)
        self._names: list[_Name] = []
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def page(
        self, state: State, token: str | None, after: str | None, limit: int
    ) -> tuple[Sequence[OpenBatch], bool]:
        """Return some batches, and whether more may follow behind the last one's id.

        Those that are open come the oldest first; others, and all, the newest first.
        """
        if state == "open":
            return await self._page_of_open(token, after, limit)
        names = [name for name in await self._all() if token is None or name.tenant == tenant_folder(token)]
        if after is not None:
            at = next((place for place, name in enumerate(names) if name.id == after), None)
            if at is None:
                raise NotFound(f"No batch '{after[:64]}' to list from. Send the last id of a page.", param="after")
            names = names[at + 1 :]
        found: list[OpenBatch] = []
        for at in range(0, min(len(names), MOST_LOOKED), AT_ONCE):
            rows = await asyncio.gather(*(self._row(name) for name in names[at : at + AT_ONCE]))
            found += [row for row in rows if row is not None and (state == "all" or row.ended_at is not None)]
            if len(found) > limit:
                break
        return found[:limit], len(found) > limit

    async def _page_of_open(self, token: str | None, after: str | None, limit: int) -> tuple[Sequence[OpenBatch], bool]:
        try:
            rows = [row for row in await self._open.rows() if token in (None, row.token)]
        except (RedisUnavailable, RedisRefused) as error:
            raise broker_error(error) from error
        ids = [row.id for row in rows]
        if after is not None and after in ids:  # else it has ended meanwhile: from the start
            rows = rows[ids.index(after) + 1 :]
        return rows[:limit], len(rows) > limit

    async def _row(self, name: _Name) -> OpenBatch | None:
        record = await load(self._store, name.tenant, name.id)
        if record is None or record.has_ended:
            return row_of(record, None) if record is not None else None
        return _shown_row(await self._desk.show(_owner(record), record.id))

    async def _all(self, *, within: float = READ_SECONDS) -> list[_Name]:
        """Return the names of all batches, the newest first, read so many seconds ago at the latest."""
        asked_at = time.monotonic()
        async with self._reading:
            if asked_at - self._read_at >= within:
                listed = map(_LISTED.fullmatch, await self._store.list("listed-batches/"))
                self._names = sorted(_Name(one[2], one[3], one[1]) for one in listed if one is not None)
                self._read_at = time.monotonic()
            return self._names

    async def _find(self, batch_id: str) -> BatchRecord:
        """Return a batch of any token; raises NotFound."""
        if keys.BATCH_ID.fullmatch(batch_id) is not None:
            mark = await self._store.get(keys.open_marker(batch_id))
            tenant = str(orjson.loads(mark)["tenant"]) if mark is not None else await self._tenant_of(batch_id)
            record = await load(self._store, tenant, batch_id) if tenant is not None else None
            if record is not None:
                return record
        raise NotFound(f"No batch found with id '{batch_id[:64]}'.", param="batch_id")

    async def _tenant_of(self, batch_id: str) -> str | None:
        """Return whose a batch is that is not open any more; it may be newer than the list that is at hand."""
        for within in (READ_SECONDS, 0.0):
            for name in await self._all(within=within):
                if name.id == batch_id:
                    return name.tenant
        return None

    async def show(self, batch_id: str) -> BatchShown:
        """Return one batch."""
        record = await self._find(batch_id)
        shown = await self._desk.show(_owner(record), record.id)
        row, live = _shown_row(shown), shown.progress.counts if shown.progress is not None else None
        ran = shown.record.has_ended and shown.record.status is not Status.FAILED
        return BatchShown(
            row=row,
            batch=public(shown.record, live=live, cancel_since=shown.cancel_since),
            may_retry=ran and row.completed < row.total,
        )

    async def cancel(self, batch_id: str, by: Actor) -> BatchAction:
        """Cancel a batch; asked again it says so."""
        record = await self._find(batch_id)
        shown = await self._desk.show(_owner(record), record.id)
        if shown.record.has_ended:
            return BatchAction(record.id, "had ended")
        if shown.cancel_since is not None:
            return BatchAction(record.id, "was cancelling")
        try:
            await self._desk.cancel(_owner(record), record.id)
        except Conflict:  # it has ended meanwhile
            return BatchAction(record.id, "had ended")
        return await self._noted(by, "batch.cancel", BatchAction(record.id, "cancelling"))

    async def retry(self, batch_id: str, by: Actor) -> BatchAction:
        """Run again what did not succeed, with the rights of the batch's token; asked again it is the same batch."""
        record = await self._find(batch_id)
        token = self._tokens.by_name(record.token)
        if token is None:
            message = f"The token '{record.token}' is there no more: nobody's rights are left to run the batch with."
            raise Conflict(message, code="invalid_batch_status")
        shown, was_there = await self._desk.retry_once(token, record.id)
        if was_there:
            return BatchAction(record.id, "was retried", shown.record.id)
        return await self._noted(by, "batch.retry", BatchAction(record.id, "retried", shown.record.id))

    async def _noted(self, by: Actor, action: str, done: BatchAction) -> BatchAction:
        try:
            outcome = f"as {done.new_id}" if done.new_id is not None else done.outcome
            await audit.note(self._client, by, action, done.id, outcome)
        except (RedisUnavailable, RedisRefused):  # it stands in the store, and is done all the same
            audit.say(by, action, done.id, f"{done.outcome}; not in the audit log: Redis was away")
        return done


def _owner(record: BatchRecord) -> TokenSettings:
    """Return a token that a batch is found by; it gives no rights."""
    return TokenSettings(name=record.token, sha256="0" * 64)


def _shown_row(shown: Shown) -> OpenBatch:
    row = row_of(shown.record, shown.progress)
    return row if shown.cancel_since is None or shown.record.has_ended else replace(row, status=str(Status.CANCELLING))
