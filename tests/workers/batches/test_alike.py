"""Lines of one batch that are alike: run once, or behind each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from shared.batches import keys
from shared.batches.lines import CheckedLine
from shared.batches.record import Status
from tests.support.batch_site import Site
from tests.support.batches import chat_line
from workers.batches.prefixes import AHEAD_LINES, grouped
from workers.batches.segments import SEGMENT_BYTES
from workers.batches.twins import Twins


def line(number: int, **body: Any) -> CheckedLine:
    return CheckedLine(number, f"line-{number}", {"model": "m", "messages": [], **body}, "m")


def order(bodies: Iterable[dict[str, Any]]) -> list[int]:
    async def read() -> AsyncIterator[CheckedLine]:
        for number, body in enumerate(bodies, 1):
            yield line(number, **body)

    async def numbers() -> list[int]:
        return [one.number async for one in grouped(read())]

    return asyncio.run(numbers())


def says(*texts: str) -> dict[str, Any]:
    return {"messages": [{"role": "system" if n == 0 else "user", "content": text} for n, text in enumerate(texts)]}


def test_lines_that_begin_alike_stand_together_in_the_order_of_the_file() -> None:
    bodies = [says("a" * 5000, "z"), says("b", "1"), says("a" * 5000, "y"), says("b", "2"), {"prompt": "p"}]
    assert order(bodies) in ([1, 3, 2, 4, 5], [5, 1, 3, 2, 4], [1, 3, 5, 2, 4])
    with_tools = [{**says("a"), "tools": [{"n": n}]} for n in (1, 2, 1, 2)]
    assert order(with_tools) == [1, 3, 2, 4]


def test_every_line_comes_once_however_many_there_are_and_whatever_they_hold() -> None:
    count = AHEAD_LINES + 100
    bodies = [says("odd" if n % 2 else "even", str(n)) if n % 7 else {"prompt": 2**70} for n in range(count)]
    found = order(bodies)
    assert sorted(found) == list(range(1, count + 1))
    assert sorted(found[:AHEAD_LINES]) == list(range(1, AHEAD_LINES + 1)), "no more are held"


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ({"temperature": 0}, {"temperature": 0}, True),
        ({"temperature": 0, "user": "u"}, {"user": "u", "temperature": 0}, True),
        ({"seed": 5}, {"seed": 5}, True),
        ({"seed": 5, "temperature": 1}, {"seed": 5, "temperature": 1}, True),
        ({}, {}, False),
        ({"seed": None}, {"seed": None}, False),
        ({"temperature": 0.1}, {"temperature": 0.1}, False),
        ({"temperature": 0}, {"temperature": 0, "max_tokens": 1}, False),
        ({"seed": 5}, {"seed": 6}, False),
        ({"seed": 2**70}, {"seed": 2**70}, False),
    ],
)
def test_which_lines_are_the_same(first: dict[str, Any], second: dict[str, Any], is_same: bool) -> None:
    twins = Twins(10)
    assert not twins.follows(line(1, **first))
    assert twins.follows(line(2, **second)) is is_same
    assert twins.ended(1) == ([(2, "line-2")] if is_same else [])


def test_no_more_wait_for_one_than_are_allowed_and_none_for_what_has_ended() -> None:
    twins = Twins(2)
    assert [twins.follows(line(number, seed=1)) for number in range(1, 6)] == [False, True, True, False, False]
    assert twins.ended(4) == []
    assert twins.ended(1) == [(2, "line-2"), (3, "line-3")]
    assert [twins.follows(line(number, seed=1)) for number in (6, 7)] == [False, True]
    assert not Twins(0).follows(line(1, seed=1)) and not Twins(0).follows(line(2, seed=1))


def test_identical_lines_run_once_and_each_has_the_answer(site: Site) -> None:
    site.set(merge_identical=True, group_prefix=True)
    same = [chat_line(f"same-{n}-{copy}", f"same {n}", "slow", temperature=0) for copy in range(10) for n in range(12)]
    free = [chat_line(f"free-{copy}", "free", "slow") for copy in range(8)]
    batch = site.batches.put([*same, *free])
    site.system.add_worker()
    ended = site.batches.wait(batch, 40, site.logs)
    assert (ended.record.status, ended.errors) == (Status.COMPLETED, [])
    assert ended.ids() == sorted(one["custom_id"] for one in (*same, *free))
    texts, calls = ended.texts(), {f"same {n}": len(site.backend.seen(f"same {n}")) for n in range(12)}
    assert len(site.backend.seen("free")) == 8
    assert sum(calls.values()) <= 24, calls  # one may end before the last of its twins is read
    for n in range(12):  # each call's answer is another
        assert len({texts[f"same-{n}-{copy}"] for copy in range(10)}) == calls[f"same {n}"]
    assert (
        len({row["id"] for row in ended.output}) == len({row["response"]["request_id"] for row in ended.output}) == 128
    )
    each = ended.output[0]["response"]["body"]["usage"]["completion_tokens"]
    assert ended.record.usage is not None
    assert ended.record.usage.output_tokens == each * (sum(calls.values()) + 8), "twins cost nothing"


def test_a_large_answer_for_many_lines_is_not_held_as_often_as_there_are_lines(site: Site) -> None:
    site.set(merge_identical=True)
    site.system.rewrite(models={"m": {"backends": [{"model": "demo?tokens=20000"}]}})
    batch = site.batches.put([chat_line(f"same-{n}", "same", temperature=0) for n in range(200)])
    site.system.add_worker()
    ended = site.batches.wait(batch, 60, site.logs)
    assert len(ended.texts()) == 200
    found = asyncio.run(site.batches.store.list(keys.segments(site.batches.tenant, batch)))
    sizes = [asyncio.run(site.batches.store.size(key)) or 0 for key in found]
    assert max(sizes) < SEGMENT_BYTES + 2 * len(next(iter(ended.texts().values())))
