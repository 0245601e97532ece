"""How many budgets are used up, or nearly: counts by whose they are, and no names."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from shared.redis import RedisClient
from shared.room.limits import budget_rows, budget_uses
from shared.room.scripts import LimitRow

NEAR: Final = 0.8
"""From this part on a budget is nearly used."""
STATES: Final = ("ok", "near", "spent")
KEEP_SECONDS: Final = 10.0
"""Budgets are looked at so seldom, as there may be one for each of thousands of tokens."""
AT_ONCE: Final = 100

Labels = tuple[str, ...]


def state_of(used: int, limit: int) -> str:
    """Return how a budget stands."""
    return "spent" if used >= limit else "near" if used >= NEAR * limit else "ok"


class BudgetLook:
    """Looks at the budgets of tokens and groups, a bunch at a time, so that requests pass in between."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._found: Counter[Labels] = Counter()
        self._looked_at = float("-inf")
        self._one_at_a_time = asyncio.Lock()

    async def look(self, limits: Callable[[], Iterable[LimitRow]]) -> Counter[Labels]:
        """Return how many there are by whose, period and state; `limits` gives those of all tokens and groups.

        Raises RedisUnavailable or RedisRefused.
        """
        async with self._one_at_a_time:
            if time.monotonic() - self._looked_at >= KEEP_SECONDS:
                rows = budget_rows([*limits()])
                self._found = await self._counted(list({row.subject: row for row in rows}.values()))
                self._looked_at = time.monotonic()
            return self._found

    async def _counted(self, rows: list[LimitRow]) -> Counter[Labels]:
        found: Counter[Labels] = Counter()
        for at in range(0, len(rows), AT_ONCE):
            for use in await budget_uses(self._client, rows[at : at + AT_ONCE]):
                whose = "group" if use.subject.startswith("group:") else "token"
                period = "day" if use.name.endswith("_day") else "month"
                found[whose, period, state_of(use.used, use.limit)] += 1
        for whose, period, _ in list(found):
            for state in STATES:
                found[whose, period, state] += 0
        return found
