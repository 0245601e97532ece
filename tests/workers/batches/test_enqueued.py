"""Which of a token's batches are counted against its limit."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.batches import keys, record
from shared.batches.record import Status
from shared.store import Store
from tests.support.batches import BatchStore, chat_line
from workers.batches.enqueued import token_limit_problem

LINES = [chat_line(f"line-{n}", "text") for n in range(40)]


def problem(batches: BatchStore, batch_id: str, most: int) -> dict[str, Any] | None:
    """Ask for a batch of 4,000 bytes."""
    made = batches.record(batch_id)
    return asyncio.run(token_limit_problem(batches.store, batches.tenant, made, 4000, most))


def test_batches_made_earlier_are_in_front_and_of_this_token_alone(tmp_path: Path) -> None:
    batches = BatchStore(tmp_path)
    BatchStore(tmp_path, "other").put(LINES)
    first, second = batches.put(LINES), batches.put(LINES)
    assert problem(batches, first, 1000) is None
    told = problem(batches, second, 1000)
    assert told is not None and (told["code"], told["line"], told["param"]) == ("token_limit_exceeded", None, None)
    assert problem(batches, first, 999) is not None  # too large by itself


def test_a_batch_that_runs_is_in_front_whenever_it_was_made_and_one_that_has_ended_is_not(tmp_path: Path) -> None:
    batches = BatchStore(tmp_path)
    first, later = batches.put(LINES), batches.put(LINES)
    asyncio.run(record.save(batches.store, batches.tenant, replace(batches.record(later), status=Status.IN_PROGRESS)))
    assert problem(batches, first, 1000) is not None
    asyncio.run(record.save(batches.store, batches.tenant, replace(batches.record(later), status=Status.COMPLETED)))
    assert problem(batches, first, 1000) is None


def test_of_thousands_of_open_batches_some_are_read_at_once(tmp_path: Path) -> None:
    batches = BatchStore(tmp_path)
    last = [batches.put(LINES) for _ in range(100)][-1]
    counting = Counting(batches.store)
    size = asyncio.run(batches.store.size(keys.input_copy(batches.tenant, last))) or 0
    told = asyncio.run(token_limit_problem(counting, batches.tenant, batches.record(last), size, 1))
    assert told is not None and f"other batches {99 * size // 4};" in told["message"]
    assert counting.most <= 32


class Counting(Store):
    """A store that knows how many reads were under way at once."""

    def __init__(self, store: Store) -> None:
        super().__init__(store._backing)
        self.most = self._now = 0

    async def get(self, key: str) -> bytes | None:
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            return await super().get(key)
        finally:
            self._now -= 1
