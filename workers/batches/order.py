"""Which of a token's batches of one model goes first: the one whose window ends first. Others begin no lines meanwhile.

Between tokens the batch lane is fair by itself. Each feeder that could keep the model's slots busy alone says so in
Redis every two seconds; those behind it look often, and begin as soon as the last line of those before has begun.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from shared.batches.record import BatchRecord
from shared.room.lines import Lines

TELL_SECONDS: Final = 2.0
"""Between two words of one that goes first; so late it hears of one that goes before it."""
LOOK_SECONDS: Final = 0.1
"""Between two looks of one that is behind."""
SILENT_SECONDS: Final = 10.0
"""Who has said nothing for so long keeps nobody waiting."""


class Order:
    """One batch's place."""

    def __init__(self, lines: Lines, record: BatchRecord) -> None:
        self._lines = lines
        self._record = record
        self._loop = asyncio.get_running_loop()
        self._asked_at = -TELL_SECONDS
        self._is_told = False
        self._is_next = True

    async def is_next(self, model: str, *, is_busy: bool) -> bool:
        """Say whether lines may begin; `is_busy` says whether there are enough of them for all slots.

        Raises RedisUnavailable or RedisRefused.
        """
        now = self._loop.time()
        pause = TELL_SECONDS if self._is_next else LOOK_SECONDS
        if is_busy == self._is_told and now - self._asked_at < pause:
            return self._is_next
        mine = (self._record.expires_at, self._record.created_us)
        told = f"{mine[0]} {mine[1]} {time.time():.0f}" if is_busy else None
        standing = await self._lines.stand(self._record.id, self._record.token, model, told)
        self._asked_at, self._is_told = now, is_busy
        self._is_next = not any(self._is_before(words, mine) for words in standing.values())
        return self._is_next

    @staticmethod
    def _is_before(words: str, mine: tuple[int, int]) -> bool:
        ends_at, created_us, told_at = map(int, words.split(" "))
        return (ends_at, created_us) < mine and abs(time.time() - told_at) < SILENT_SECONDS
