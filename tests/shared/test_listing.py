"""Jobs listed page by page over a real Redis: each once, whatever leaves meanwhile, at a cost that does not grow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared import keys
from shared.control.actor import COMMAND, Actor
from shared.control.jobs import JobControl, JobFilter
from shared.control.listing import Listing, Page
from shared.control.models import ModelControl
from shared.control.problems import BadFilter
from shared.control.story import NO_WORKER, Stories
from shared.jobs import new_id
from shared.room.scripts import TELL_ENDS, TellEndsArguments, TellEndsRow
from shared.scripting import Scripts
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench

TWO: dict[str, dict[str, Any]] = {"m": {"concurrency": 3}, "n": {"max_wait_seconds": 500}}
OPERATOR = Actor("anna", COMMAND)


async def many(bench: Bench, count: int, **more: Any) -> list[str]:
    made: list[str] = []
    while len(made) < count:
        part = range(len(made), min(count, len(made) + 100))
        made += await asyncio.gather(*(bench.admit(tenant=f"t{at % 3}", late_ms=60_000, **more) for at in part))
    return made


async def all_pages(listing: Listing, wanted: JobFilter, limit: int = 7, **more: Any) -> list[Page]:
    pages = [await listing.page(wanted, limit=limit, **more)]
    while pages[-1].next is not None:
        pages.append(await listing.page(wanted, pages[-1].next, limit, **more))
    return pages


def ids(pages: list[Page]) -> list[str]:
    return [story.job.id for page in pages for story in page.stories]


@asynchronous
async def test_every_job_is_on_one_page_of_those_that_run_and_wait(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url, TWO) as bench:
        listing = Listing(bench.client, bench.catalogue)
        made = [*await many(bench, 12), *await many(bench, 9, model="n"), *await many(bench, 6, lane="batch")]
        # Lines of batches wait for ever: they stand at one and the same place.
        lines = [new_id() for _ in range(15)]
        await bench.client.call("ZADD", keys.waits("m"), *(part for one in lines for part in ("inf", one)))
        running = await bench.take_ids(3)
        pages = await all_pages(listing, JobFilter())
        assert sorted(ids(pages)) == sorted(made)
        assert ids(pages)[:3] == sorted(running)
        assert {len(page.stories) for page in pages[:-3]} == {7}
        assert pages[-1].waiting == 24 + 15
        assert sum(page.looked for page in pages) == 27 + 15
        counts = []
        for wanted in (
            JobFilter(model="n"),
            JobFilter(lane="batch"),
            JobFilter(token="t1"),
            JobFilter(token="t1", state="running"),
            JobFilter(state="waiting", model="m", lane="default"),
            JobFilter(older_than_seconds=60),
        ):
            found = ids(await all_pages(listing, wanted, 4))
            matching = JobControl(bench.client, bench.catalogue).matching(wanted)
            assert sorted(found) == [job.id async for job in matching], wanted
            counts.append(len(found))
        assert (counts[:3], counts[-1]) == ([9, 6, 9], 0)


@asynchronous
async def test_what_leaves_between_two_pages_moves_nobody(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url, TWO) as bench:
        listing = Listing(bench.client, bench.catalogue)
        for lane in (None, "default"):
            made = await many(bench, 20)
            first = await listing.page(JobFilter(lane=lane), limit=8)
            shown = ids([first])
            await JobControl(bench.client, bench.catalogue).cancel([*shown, made[-1]], OPERATOR, "some")
            assert first.next is not None
            rest = await listing.page(JobFilter(lane=lane), first.next, 100)
            assert {*ids([rest])} == {*made} - {*shown, made[-1]}
            assert rest.next is None
            await JobControl(bench.client, bench.catalogue).cancel(made, OPERATOR, "all")


@asynchronous
async def test_a_page_goes_on_behind_an_id_too_as_long_as_it_is_known_where_it_stands(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url, TWO) as bench:
        listing = Listing(bench.client, bench.catalogue)
        await many(bench, 6)
        await bench.take(2)
        whole = ids([await listing.page(JobFilter())])
        for at in range(5):
            assert ids([await listing.page(JobFilter(), "req_" + whole[at])]) == whole[at + 1 :]
        for after in ("req_" + "0" * 32, "waiting~x~" + whole[0], "ended~5~" + whole[0]):
            with pytest.raises(BadFilter, match="after: "):
                await listing.page(JobFilter(), after)


@asynchronous
async def test_a_page_costs_the_same_whatever_waits(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url, {"m": {"max_queue": 5000}}) as bench:
        listing = Listing(bench.client, bench.catalogue, most_looked=300)

        async def cost(wanted: JobFilter, after: str = "") -> tuple[int, Page]:
            await bench.client.call("CONFIG", "RESETSTAT")
            page = await listing.page(wanted, after, 50)
            stats = (await bench.client.call("INFO", "commandstats")).decode().splitlines()
            return sum(int(line.split("calls=")[1].split(",")[0]) for line in stats if "calls=" in line), page

        await many(bench, 400)
        await cost(JobFilter(model="m"))  # the scripts are loaded
        small, _ = await cost(JobFilter(model="m"))
        await many(bench, 1200)
        large, first = await cost(JobFilter(model="m"))
        assert large == small
        assert first.waiting == 1600
        later, _ = await cost(JobFilter(model="m"), first.next or "")
        assert later < small + 15  # the way to where the first one ended
        _, nobody = await cost(JobFilter(token="nobody"))
        assert (nobody.looked, nobody.stories) == (300, [])
        assert nobody.next is not None
        pages = await all_pages(listing, JobFilter(token="t2"), 1000)
        assert len(ids(pages)) == len({*ids(pages)}) == 533


@asynchronous
async def test_only_who_waits_for_a_held_model_is_held_and_why_is_told(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url, TWO) as bench:
        listing, stories = Listing(bench.client, bench.catalogue), Stories(bench.client, bench.catalogue)
        await many(bench, 3)
        held = await many(bench, 2, model="n")
        await ModelControl(bench.client, bench.catalogue).set_model("n", "pause", OPERATOR)
        pages = await all_pages(listing, JobFilter(state="held"))
        assert sorted(ids(pages)) == sorted(held)
        matching = JobControl(bench.client, bench.catalogue).matching(JobFilter(state="held"))
        assert [job.id async for job in matching] == sorted(held)
        assert {story.as_json()["held"] for page in pages for story in page.stories} == {"paused"}
        (running,) = await bench.take_ids(1)
        whole = [(await stories.show(one)).as_json() for one in (held[1], running)]
        assert [(one["held"], one["position"], one["worker"]) for one in whole] == [
            ("paused", 1, None),
            (None, None, "w1"),
        ]
        waits = (await listing.page(JobFilter(model="m", state="waiting"))).stories[0].job.id
        assert (await stories.show(waits)).waits_for == "room"
        await bench.client.call("DEL", keys.workers("m"))
        assert (await stories.show(waits)).waits_for == NO_WORKER


@asynchronous
async def test_what_has_ended_is_listed_by_outcome_the_newest_first(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url) as bench:
        listing, scripts = Listing(bench.client, bench.catalogue, most_looked=20), Scripts(bench.client)
        made = sorted(new_id() for _ in range(30))
        for at, job_id in enumerate(made):
            outcome, token = ("2", "4", "5")[at % 3], b"ab"[at % 2 : at % 2 + 1]
            told = b'{"model":"m","token":"%b","ms":5,"status":500}' % token
            row = TellEndsRow(f"request:{outcome}", job_id, 1000 - at // 10 * 100, told)
            await scripts.run(TELL_ENDS, TellEndsArguments(100, 3_600_000), [row])
        pages = await all_pages(listing, JobFilter(state="ended"), 4)
        assert {*ids(pages)} == {*made}
        assert len(ids(pages)) == 30
        times = [story.job.ended for page in pages for story in page.stories]
        assert times == sorted(times, reverse=True)
        lines = []
        for at, job_id in enumerate(made[:9]):
            told = b'{"model":"m","token":"a","lane":"%b","status":500,"code":"x"}' % (
                b"batch" if at % 3 else b"default"
            )
            row = TellEndsRow("run:5", f"{job_id}/2", 500 + at // 4, told)
            await scripts.run(TELL_ENDS, TellEndsArguments(100, 3_600_000), [row])
            lines += [job_id] if at % 3 else []
        pages = await all_pages(listing, JobFilter(state="ended", lane="batch"), 2, outcome="failed")
        assert {*ids(pages)} == {*lines} and len(ids(pages)) == len(lines)
        outcome = pages[0].stories[0].as_json()["outcome"]
        assert (outcome["code"], outcome["answered"]) == ("x", False)
        failed = ids(await all_pages(listing, JobFilter(state="ended", token="a"), 2, outcome="failed"))
        assert {*failed} == {*made[2::6]}
        with pytest.raises(BadFilter, match="outcome: "):
            await listing.page(JobFilter(), outcome="failed")
