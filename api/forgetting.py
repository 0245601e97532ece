"""Ended requests that were handed on: what Redis forgets of them, and of how many the record stays a while.

The record of an ended request, without its words, is what `GET /requests/{id}` answers from for its last minute. It is
some hundred bytes, so a busy process leaves those of the first ones of each second only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from shared.room.admission import Admissions

RECORDS_A_SECOND: Final = 100
"""A minute of these is a few megabytes of Redis for each API process."""


class Forgetting:
    """Tells Redis what to forget."""

    def __init__(self, admissions: Admissions) -> None:
        self._admissions = admissions
        self._left = float(RECORDS_A_SECOND)
        self._at = time.monotonic()

    async def forget(self, job_ids: Sequence[str]) -> int:
        """Forget ended jobs, all but the records of some. Raises RedisUnavailable or RedisRefused."""
        now = time.monotonic()
        self._left = min(float(RECORDS_A_SECOND), self._left + (now - self._at) * RECORDS_A_SECOND)
        self._at = now
        keep = min(int(self._left), len(job_ids))
        self._left -= keep
        return await self._admissions.forget(job_ids, keep=keep)
