"""`Entrance`: of a crowd so many enter in a turn of the loop; what else is ready has its share of each."""

from __future__ import annotations

import asyncio
from collections import Counter

from api.entrance import MOST_A_TURN, Entrance
from tests.support.asynchronous import on_each_loop


class Loop:
    """Counts turns of the running loop."""

    def __init__(self) -> None:
        self.turn = 0
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._next)
        self.is_over = False

    def _next(self) -> None:
        self.turn += 1
        if not self.is_over:
            self._loop.call_soon(self._next)


@on_each_loop
async def test_of_a_crowd_few_enter_in_one_turn_and_all_in_order() -> None:
    entrance, loop = Entrance(), Loop()
    entered = list[tuple[int, int]]()

    async def come(number: int) -> None:
        await entrance.enter()
        entered.append((number, loop.turn))

    await asyncio.gather(*(come(number) for number in range(10 * MOST_A_TURN)))
    loop.is_over = True
    assert [number for number, _ in entered] == list(range(10 * MOST_A_TURN))
    turns = Counter(turn for _, turn in entered)
    assert max(turns.values()) <= MOST_A_TURN
    assert len(turns) >= 10


@on_each_loop
async def test_one_alone_waits_for_nothing() -> None:
    entrance, loop = Entrance(), Loop()
    for _ in range(3 * MOST_A_TURN):
        await asyncio.sleep(0)
        before = loop.turn
        await entrance.enter()
        assert loop.turn == before
    loop.is_over = True


@on_each_loop
async def test_who_leaves_takes_no_place() -> None:
    entrance = Entrance()
    tasks = [asyncio.create_task(entrance.enter()) for _ in range(3 * MOST_A_TURN)]
    await asyncio.sleep(0)
    leaving = [task for task in tasks if not task.done()][:-1]
    for task in leaving:
        task.cancel()
    async with asyncio.timeout(5):
        await tasks[-1]
    assert all(task.cancelled() for task in leaving)
