"""Tells Redis every two seconds how what one process has at hand ended; one that is killed takes two seconds along.

To hear of an end costs a look-up and an append. What is told is made at the telling, of the newest alone: so many of
each token and kind of outcome, so that neither the time nor the memory that it takes grows with the load.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar

import orjson

from shared.ended.outcomes import FAILED, GOOD, KEPT_MS, REFUSED, UNENDED
from shared.redis import RedisClient, RedisRefused, RedisUnavailable
from shared.room.scripts import TELL_ENDS, TellEndsArguments, TellEndsRow
from shared.scripting import Scripts

log = logging.getLogger("aqueduct.ended")

ROWS: Final = 200
"""In one call: it holds up Redis for everybody."""
NEWEST: Final = {GOOD: 100, REFUSED: 30, FAILED: 200, UNENDED: 100}
"""So many of each token and kind of outcome are told at once."""
MAX_BYTES: Final = 1500
"""Of one row; a longer one goes without its calls of backends."""
MAX_TEXT: Final = 128

Item = TypeVar("Item")


class Told(NamedTuple):
    """What is told of one end."""

    name: str
    """A job's id, of a run with a slash and its number behind it."""
    facts: dict[str, Any]
    """None is left out."""


class _Row(NamedTuple):
    kind: str
    name: str
    at: float
    told: bytes


class Teller(Generic[Item]):
    """Of one process and one kind of thing. Used on one event loop."""

    def __init__(self, client: RedisClient, most: int, what: str, tell: Callable[[Item], Told]) -> None:
        """Take how many of each outcome Redis keeps, what it tells of, and what makes a row of it."""
        self._scripts = Scripts(client)
        self._arguments = TellEndsArguments(most, KEPT_MS)
        self._what = what
        self._tell = tell
        self._held: dict[tuple[str, str], deque[tuple[float, Item]]] = {}
        self._untold: deque[_Row] = deque()
        """What Redis has not said that it heard."""
        self._one_at_a_time = asyncio.Lock()

    def add(self, outcome: str, token: str, item: Item) -> None:
        """Take an end of this moment."""
        held = self._held.get((outcome, token))
        if held is None:
            held = self._held[outcome, token] = deque(maxlen=NEWEST[outcome])
        held.append((time.monotonic(), item))

    async def flush(self) -> None:
        """Tell everything that is new; raises RedisUnavailable or RedisRefused, and then it is told next time."""
        async with self._one_at_a_time:
            await self._send()
            held, self._held = self._held, {}
            for (outcome, _), ends in held.items():
                self._untold.extend(self._row(outcome, at, item) for at, item in ends)
            await self._send()

    async def _send(self) -> None:
        while self._untold:
            now = time.monotonic()
            rows = [self._untold[at] for at in range(min(ROWS, len(self._untold)))]
            await self._scripts.run(
                TELL_ENDS,
                self._arguments,
                [TellEndsRow(row.kind, row.name, round((now - row.at) * 1000), row.told) for row in rows],
            )
            for _ in rows:
                self._untold.popleft()

    def _row(self, outcome: str, at: float, item: Item) -> _Row:
        name, facts = self._tell(item)
        given = {key: value[:MAX_TEXT] if type(value) is str else value for key, value in facts.items()
                 if value is not None}  # fmt: skip
        told = orjson.dumps(given)
        if len(told) > MAX_BYTES:
            given.pop("calls", None)
            told = orjson.dumps(given)
        return _Row(f"{self._what}:{outcome}", name, at, told)

    async def tell_forever(self, seconds: float) -> None:
        """Tell every so many seconds until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            await self.flush_quietly()

    async def flush_quietly(self) -> None:
        """As `flush`, where nobody waits for it."""
        try:
            await self.flush()
        except (RedisUnavailable, RedisRefused) as error:
            log.debug("ends not told: %s", type(error).__name__)
