"""Limits a minute, places that are promised, waiting jobs and budgets, over a real Redis whose clock is set on."""

from __future__ import annotations

import heapq
import json
import struct
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
import redis

from shared import keys
from shared.errors import InsufficientQuota, RateLimited, RequestError
from shared.jobs import End, new_id
from shared.room.admission import Admission
from shared.room.leases import How, append_parts
from shared.room.limits import Rate, limits_of, spent_budget
from shared.room.limits_used import limits_used
from shared.room.lines import LineJob, Lines
from shared.room.scripts import AppendRow
from shared.token_settings import GroupSettings, TokenSettings
from tests.support.asynchronous import asynchronous
from tests.support.clock import set_clock
from tests.support.processes import RedisServer
from tests.support.rooms import HASH, Bench, a_spec, open_bench

WIDE = {"m": {"concurrency": 10_000, "max_queue": 10_000}}


class Clock:
    """Redis's clock, set on by whole seconds."""

    def __init__(self, bench: Bench, client: redis.Redis) -> None:
        self._bench = bench
        self._client = client

    async def on(self, seconds: int) -> None:
        """Let so many seconds pass; API and worker live on."""
        set_clock(self._client, seconds)
        await self._bench.serve("w1")
        await self._bench.beat()


async def refusal(bench: Bench, **more: Any) -> RequestError:
    """Return how a request is refused."""
    with pytest.raises(RequestError) as refused:
        await bench.admit(**more)
    return refused.value


async def begin_of_second(bench: Bench) -> None:
    """Wait until a second begins, so that a test of few milliseconds is within one."""
    _, micros = await bench.redis("TIME")
    await bench.wait_ms(1001 - int(micros) // 1000)


def worst_minute(times: Sequence[tuple[float, int]]) -> int:
    """Return the most that any 60 seconds hold, of moments and amounts."""
    at, most, now = 0, 0, 0
    for moment, amount in times:
        now += amount
        while times[at][0] <= moment - 60:
            now -= times[at][1]
            at += 1
        most = max(most, now)
    return most


async def crowd(
    bench: Bench, client: redis.Redis, *, clients: int, seconds: int, alike: bool, cost: int, **limits: Any
) -> tuple[list[tuple[float, int]], int, int]:
    """Have clients ask again and again, and come back when they are told to.

    Returns (second, tokens) of those let in, how many came back as told, and how many of these were let in.
    """
    clock, now, let_in, returned, kept = Clock(bench, client), 0, list[tuple[float, int]](), 0, 0
    draw = Random(1)
    due: list[tuple[int, int, bool]] = [(0, number, False) for number in range(clients)]
    heapq.heapify(due)
    while due[0][0] < seconds:
        moment, number, is_return = heapq.heappop(due)
        if moment > now:
            for job in await bench.take(10_000):
                await bench.end(job, used=cost)
            await clock.on(moment - now)
            now = moment
        returned += is_return
        body = b"{}" if alike else b"%d" % number
        try:
            await bench.admit(cost=cost + 3, body=body, **limits)
        except RateLimited as refused:
            wait = int(refused.response_headers()["retry-after"])
            heapq.heappush(due, (moment + wait + draw.randrange(2), number, True))
        else:
            let_in.append((moment, cost))
            kept += is_return
            heapq.heappush(due, (moment + draw.randrange(1, 4), number, False))
    return let_in, returned, kept


@pytest.mark.parametrize(("alike", "share"), [(False, 0.9), (True, 0.8)], ids=["own bodies", "one body"])
@asynchronous
async def test_of_a_crowd_as_many_get_in_as_may_and_nearly_all_when_they_are_told(
    room_redis: RedisServer, alike: bool, share: float
) -> None:
    """Of equal bodies, some are new requests that take the place of one that comes a second late."""
    async with open_bench(room_redis.url, WIDE) as bench:
        with room_redis.client() as client:
            let_in, returned, kept = await crowd(
                bench, client, clients=55, seconds=200, alike=alike, cost=10, requests_per_minute=60
            )
    assert worst_minute([(at, 1) for at, _ in let_in]) == 60
    assert len(let_in) >= 60 * 3  # in 200 seconds three times, and not yet a fourth
    assert returned > 150
    assert kept / returned >= share


@asynchronous
async def test_tokens_a_minute_are_real_ones_once_jobs_have_ended(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, WIDE) as bench:
        with room_redis.client() as client:
            let_in, returned, kept = await crowd(
                bench, client, clients=55, seconds=200, alike=False, cost=10, tokens_per_minute=600
            )
    assert 588 <= worst_minute(let_in) <= 600
    assert sum(tokens for _, tokens in let_in) >= 588 * 3
    assert kept / returned >= 0.9


@asynchronous
async def test_a_newcomer_takes_no_promised_place_until_it_is_dropped(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        with room_redis.client() as client:
            clock = Clock(bench, client)
            await begin_of_second(bench)
            await bench.admit(requests_per_minute=1)
            told = await refusal(bench, body=b"first", requests_per_minute=1)
            assert 59 < (told.retry_after or 0) <= 61
            early = await refusal(bench, body=b"first", is_retry=True, requests_per_minute=1)
            assert (early.retry_after or 0) <= (told.retry_after or 0)  # it keeps its place
            await clock.on(61)
            await refusal(bench, body=b"new", requests_per_minute=1)
            await clock.on(2)
            await refusal(bench, body=b"new", is_retry=True, requests_per_minute=1)
            await clock.on(1)
            await bench.admit(body=b"new", is_retry=True, requests_per_minute=1)


@asynchronous
async def test_who_comes_back_two_seconds_late_finds_its_place(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        with room_redis.client() as client:
            await begin_of_second(bench)
            await bench.admit(requests_per_minute=1)
            await refusal(bench, body=b"first", requests_per_minute=1)
            await Clock(bench, client).on(63)
            await bench.admit(body=b"first", requests_per_minute=1)
            assert await bench.redis("KEYS", keys.PREFIXES["promise"] + "*") == []


@asynchronous
async def test_a_request_larger_than_the_limit_is_told_to_be_smaller(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        error = await refusal(bench, cost=501, tokens_per_minute=500)
        assert "Request too large" in error.message
        assert "501" in error.message
        assert error.response_headers()["x-should-retry"] == "false"
        assert "retry-after" not in error.response_headers()
        await bench.admit(cost=500, tokens_per_minute=500)


@asynchronous
async def test_an_estimate_is_put_right_by_every_end(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        given: dict[str, Any] = {"tokens_per_minute": 10_000, "cost": 1000}

        async def remaining() -> int:
            return (await limits_used(bench.client, ["a"]))["a"]["tokens_per_minute"]

        await bench.admit(**given)
        assert await remaining() == 1000
        (job,) = await bench.take()
        await bench.end(job, used=30)
        assert await remaining() == 30
        waiting = await bench.admit(**given)
        assert await bench.cancel(waiting) == "w"
        assert await remaining() == 30
        await bench.admit(**given)
        (job,) = await bench.take()
        await bench.append(job, b"Cx")
        assert await bench.cancel(job.id) == "r"
        await bench.release((job.id, job.attempt, How.END))
        asked = (2 + len(a_spec(tenant="a").to_json())) / 4
        assert 30 < await remaining() <= 30 + asked + 2  # what it was asked and had said
        before = await remaining()
        await bench.admit(**given)
        (job,) = await bench.take()
        end = End(status=503, cost=77).to_json()
        await bench.leases.append(append_parts(AppendRow(job.id, job.attempt, 0, end, (b"Ex",))))
        assert await remaining() == before  # nobody had a word of it
        await bench.admit(**given)
        (job,) = await bench.take()
        await bench.release((job.id, job.attempt, How.FAIL))
        assert await remaining() == before  # nor of what its worker gave up
        await bench.admit(**given)
        (job,) = await bench.take()
        await bench.leases.append(append_parts(AppendRow(job.id, job.attempt, 0, end, (b"S", b"Cx", b"Ex"))))
        assert await remaining() == before + 77  # an answer that broke off, though all of it came in one message


@asynchronous
async def test_what_a_long_answer_cost_above_its_estimate_counts_when_it_is_known(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        with room_redis.client() as client:
            await bench.admit(tenant="a", cost=10, tokens_per_minute=1000)
            (job,) = await bench.take()
            await Clock(bench, client).on(100)
            await bench.end(job, used=900)
            error = await refusal(bench, cost=200, tokens_per_minute=1000)
            assert "has used 890" in error.message


@asynchronous
async def test_rates_are_told_of_requests_and_tokens(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await begin_of_second(bench)
        admitted = (await bench.admitted(cost=30, requests_per_minute=5, tokens_per_minute=100))[1]
        assert admitted.requests is not None
        assert admitted.tokens is not None
        assert admitted.requests[:2] == (5, 4)
        assert admitted.tokens[:2] == (100, 70)
        names = [name.decode() for name, _ in admitted.headers()]
        assert names == [
            f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")
        ]
        error = await refusal(bench, cost=80, requests_per_minute=5, tokens_per_minute=100)
        assert "100 tokens per minute" in error.message
        assert error.response_headers()["x-ratelimit-remaining-tokens"] == "70"


@asynchronous
async def test_waiting_jobs_are_counted_to_the_job(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": 2, "max_wait_seconds": 60}}) as bench:
        ids = [await bench.admit(waiting_jobs=3) for _ in range(5)]  # two are for the free slots
        error = await refusal(bench, waiting_jobs=3)
        assert "3 requests waiting" in error.message
        assert 1 <= (error.retry_after or 0) <= 60
        jobs = await bench.take(2)
        await refusal(bench, waiting_jobs=3)
        assert await bench.cancel(ids[4]) == "w"
        ids[4] = await bench.admit(waiting_jobs=3)
        await bench.end(jobs[0])
        await bench.take(1)
        await bench.admit(waiting_jobs=3)
        await refusal(bench, waiting_jobs=3)
        await bench.release((jobs[1].id, jobs[1].attempt, How.AGAIN))  # it waits again
        held = await bench.redis("ZCARD", keys.PREFIXES["subject_waits"] + "a")
        assert held == 4
        await bench.expire_wait(ids[3])
        await bench.sweep()
        assert await bench.redis("ZCARD", keys.PREFIXES["subject_waits"] + "a") == 3


@asynchronous
async def test_a_limit_that_is_lowered_below_what_runs_lets_that_end(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        for _ in range(4):
            await bench.admit(concurrent_jobs=4, requests_per_minute=9)
        jobs = await bench.take(4)
        await refusal(bench, concurrent_jobs=2, requests_per_minute=9)
        for job in jobs[:2]:
            await bench.end(job)
        await refusal(bench, concurrent_jobs=2, requests_per_minute=9)
        await bench.end(jobs[2])
        await bench.admit(concurrent_jobs=2, requests_per_minute=9)
        assert "2 requests per minute" in (await refusal(bench, requests_per_minute=2)).message


@asynchronous
async def test_a_groups_limits_hold_for_its_tokens_together(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        group = GroupSettings(name="g", requests_per_minute=3, concurrent_jobs=9, tokens_per_day=1000)

        async def admit(name: str, body: bytes = b"{}") -> Rate | None:
            token = TokenSettings(name=name, sha256=HASH, group="g", requests_per_minute=2).within({"g": group})
            job = Admission(
                id=new_id(), model="m", token=token, lane="default", owner="api", body=body, spec=a_spec(), cost=10
            )
            not_after_ms = bench.admissions.redis_now_ms() + 2000
            return (await bench.admissions.admit(job, not_after_ms=not_after_ms)).requests

        rates = [await admit(name) for name in ("a", "b", "a")]
        assert [rate[:2] for rate in rates if rate] == [(2, 1), (2, 1), (2, 0)]
        with pytest.raises(RateLimited, match="group `g` of this token has used 3"):
            await admit("b")
        for job in await bench.take(3):
            await bench.end(job, used=400)
        with pytest.raises(InsufficientQuota, match="1200 of its 1000 tokens per day") as spent:
            await admit("c")
        assert spent.value.code == "project_spend_limit_exceeded"


# Budgets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tokens_per_day", "tokens_per_month"])
@asynchronous
async def test_a_spent_budget_refuses_until_it_begins_anew(room_redis: RedisServer, name: str) -> None:
    async with open_bench(room_redis.url) as bench:
        given: dict[str, Any] = {name: 500}
        await bench.admit(**given)
        await bench.admit(**given)  # what is under way is not stopped
        jobs = await bench.take(2)
        await bench.end(jobs[0], used=499)
        third = await bench.admit(**given)
        await bench.end(jobs[1], used=1)
        error = await refusal(bench, **given)
        assert (error.status, error.type, error.code) == (429, "insufficient_quota", "token_spend_limit_exceeded")
        assert f"500 of its 500 {name.replace('_', ' ')}" in error.message
        assert "begins anew at 2" in error.message
        headers = error.response_headers()
        assert headers.get("x-should-retry") == "false" or "retry-after" in headers  # the last minute of a day
        assert await bench.take_ids() == [third]
        # A budget bears its day and its month: those of another are not looked at.
        key = keys.PREFIXES["spent"] + "a"
        spent = list(struct.unpack(">6d", await bench.redis("GET", key)))
        spent[0], spent[3] = spent[0] - 40, spent[3] + 2
        await bench.redis("SET", key, struct.pack(">6d", *spent), "KEEPTTL")
        await bench.admit(**given)


@asynchronous
async def test_a_budget_finds_what_it_had_counted_when_the_clock_steps_back_over_midnight(
    room_redis: RedisServer,
) -> None:
    async with open_bench(room_redis.url) as bench:
        key = keys.PREFIXES["spent"] + "a"
        given: dict[str, Any] = {"tokens_per_day": 500}
        await bench.admit(**given)
        await bench.end((await bench.take())[0], used=490)
        day, *today, month, month_tokens, month_ms = struct.unpack(">6d", await bench.redis("GET", key))
        ahead = (day + 1, 7, 0, month, month_tokens, month_ms, day, *today)
        await bench.redis("SET", key, struct.pack(">9d", *ahead), "KEEPTTL")
        await bench.admit(**given)
        await bench.end((await bench.take())[0], used=10)
        day_now, used, _, month_now, month_used, _, *others = struct.unpack(">9d", await bench.redis("GET", key))
        assert (day_now, used, month_now, month_used) == (day, 500, month, month_tokens + 10)
        assert others == [day + 1, 7, 0]
        assert isinstance(await refusal(bench, **given), InsufficientQuota)


@asynchronous
async def test_slot_seconds_are_charged_for_every_run(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"max_wait_seconds": 600}}) as bench:
        with room_redis.client() as client:
            clock = Clock(bench, client)
            given: dict[str, Any] = {"slot_seconds_per_day": 50}
            await bench.admit(**given)
            (job,) = await bench.take()
            await bench.wait_ms(300)
            assert await bench.release((job.id, job.attempt, How.AGAIN)) == "b"
            (job,) = await bench.take()
            await bench.wait_ms(300)
            await bench.end(job)
            spent = await bench.redis("GET", keys.PREFIXES["spent"] + "a")
            day, _, day_ms, month, _, month_ms = struct.unpack(">6d", spent)
            assert day > 0 > month
            assert 600 <= day_ms == month_ms < 5000
            await clock.on(0)
            waiting = await bench.admit(**given)
            await bench.cancel(waiting)
            assert await bench.redis("GET", keys.PREFIXES["spent"] + "a") == spent  # who waits holds no slot


@asynchronous
async def test_a_batchs_line_is_charged_to_budgets_and_refused_by_no_limit(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        limits: dict[str, Any] = {"tokens_per_day": 10, "requests_per_minute": 1, "tokens_per_minute": 10}
        limits |= {"concurrent_jobs": 1, "waiting_jobs": 1}
        token = TokenSettings(name="a", sha256=HASH, **limits)
        lines = Lines(bench.client, bench.bulk, bench.catalogue, "feeder")
        jobs = [LineJob(id=f"{number:032x}", body=b"{}", spec=a_spec(), cost=100) for number in range(3)]
        assert await lines.admit("batch_1", "m", token, jobs, life_seconds=60) == [True] * 3
        for job in await bench.take(3):
            await bench.end(job, used=20)
        assert await bench.redis("EXISTS", keys.PREFIXES["minute"] + "a", keys.PREFIXES["token_jobs"] + "a") == 0
        with pytest.raises(InsufficientQuota, match="60 of its 10"):
            await bench.admit(cost=5, **limits)
        spent = await spent_budget(bench.client, limits_of(token).rows)  # so another batch is refused
        assert spent is not None
        assert "60 of its 10 tokens per day" in spent.message
        more = [LineJob(id="f" * 32, body=b"{}", spec=a_spec(), cost=100)]
        assert await lines.admit("batch_1", "m", token, more, life_seconds=60) == [True]


@asynchronous
async def test_without_limits_nothing_is_counted(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job_id = await bench.admit()
        facts = json.loads(await bench.redis("HGET", keys.job(job_id), "facts"))
        assert not {"limits", "token"} & set(facts)
        (job,) = await bench.take()
        await bench.end(job)
        kinds = {key.split(b":")[1].decode() for key in await bench.redis("KEYS", "aq2:*")}
        assert not kinds & {"minute", "seconds", "promise", "spent", "token_jobs", "subject_waits"}
        admitted = (await bench.admitted())[1]
        assert admitted.headers() == []


@asynchronous
async def test_a_job_that_an_older_version_admitted_gives_its_place_back(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job_id = await bench.admit(concurrent_jobs=1)
        facts = json.loads(await bench.redis("HGET", keys.job(job_id), "facts"))
        assert facts["token"] == "a"  # as older versions give it back
        del facts["limits"]
        await bench.redis("HSET", keys.job(job_id), "facts", json.dumps(facts))
        (job,) = await bench.take()
        await bench.end(job)
        await bench.admit(concurrent_jobs=1)
