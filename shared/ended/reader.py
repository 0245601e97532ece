"""Reads what is kept of requests and runs that have ended."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, NamedTuple

import orjson

from shared import keys
from shared.ended.outcomes import KEPT_MS, OF_REQUESTS, OF_RUNS, REQUESTS, RUNS
from shared.redis import RedisClient

MOST_RUNS: Final = 12
"""Of one job that are looked for."""
SLICE: Final = 200


class Past(NamedTuple):
    """One request, or one run, that has ended."""

    name: str
    at_ms: int
    """When it ended, by Redis's clock."""
    facts: dict[str, Any]


class EndedReader:
    """Every method raises RedisUnavailable or RedisRefused."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    async def request(self, job_id: str) -> Past | None:
        """Return how the request of this id ended; None where nothing is kept of it."""
        replies = await asyncio.gather(
            *(self._client.call("HGET", keys.ended_told(REQUESTS, one), job_id) for one in OF_REQUESTS)
        )
        found = [past for reply in replies if (past := _past(job_id, reply)) is not None]
        return max(found, key=lambda past: past.at_ms, default=None)

    async def runs(self, job_id: str) -> list[Past]:
        """Return the runs of a job that have ended, the first one first."""
        names = [f"{job_id}/{number}" for number in range(1, MOST_RUNS + 1)]
        replies = await asyncio.gather(
            *(self._client.call("HMGET", keys.ended_told(RUNS, one), *names) for one in OF_RUNS)
        )
        found = [past for reply in replies for name, told in zip(names, reply, strict=True)
                 if (past := _past(name, told)) is not None]  # fmt: skip
        return sorted(found, key=lambda past: (past.at_ms, past.name))

    async def ends(
        self, outcomes: Sequence[str], before: tuple[int, str] | None = None, what: str = REQUESTS
    ) -> AsyncIterator[Past]:
        """Yield the requests, or runs, of these outcomes, the newest end first; with `before` those behind that one."""
        seconds, _ = await self._client.call("TIME")
        oldest = int(seconds) * 1000 - KEPT_MS
        lists = [self._one(what, outcome, oldest, before) for outcome in outcomes]
        heap: list[tuple[int, str, int, Past]] = []

        async def push(number: int) -> None:
            past = await anext(lists[number], None)
            if past is not None:
                heapq.heappush(heap, (-past.at_ms, _turned(past.name), number, past))

        for number in range(len(lists)):
            await push(number)
        while heap:
            _, _, number, past = heapq.heappop(heap)
            yield past
            await push(number)

    async def _one(self, what: str, outcome: str, oldest: int, before: tuple[int, str] | None) -> AsyncIterator[Past]:
        order, told = keys.ended(what, outcome), keys.ended_told(what, outcome)
        shown = 0
        while True:
            newest = before[0] if before is not None else "+inf"
            limit = ("LIMIT", shown, SLICE)
            flat = await self._client.call("ZREVRANGEBYSCORE", order, newest, oldest, "WITHSCORES", *limit)
            ids = [(int(float(at)), name.decode()) for name, at in zip(flat[::2], flat[1::2], strict=True)]
            new = [one for one in ids if before is None or one < before]
            if not new:
                if len(ids) < SLICE:
                    return
                shown += SLICE  # very many ended in one and the same moment
                continue
            shown = 0
            rows = await self._client.call("HMGET", told, *(name for _, name in new))
            for (_, name), row in zip(new, rows, strict=True):
                if (past := _past(name, row)) is not None:
                    yield past
            before = new[-1]


def _past(name: str, told: bytes | None) -> Past | None:
    """Return what a row says; None where there is none, or none that can be read."""
    at, _, facts = (told or b"").partition(b" ")
    try:
        read = orjson.loads(facts)
        return Past(name, int(at), read) if type(read) is dict else None
    except ValueError:
        return None


def _turned(name: str) -> str:
    """Return a text that sorts the other way round, of hexadecimal digits."""
    return name.translate(_TURNED)


_TURNED: Final = str.maketrans("0123456789abcdef", "fedcba9876543210")
