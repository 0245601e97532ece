"""What operators hold: nothing of a held model starts, what waits is kept, and nothing of it is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from shared import keys
from shared.backend_keys import key_of
from shared.control.actor import Actor
from shared.control.audit import entries
from shared.control.jobs import JobControl, JobFilter
from shared.control.models import Action, ModelControl
from shared.control.problems import BadFilter, NoSuch
from shared.errors import ModelRetired, ResourceUnavailable
from shared.holds import Hold, first_hold
from shared.room.leases import How, Why
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, open_bench
from tests.support.waiting import wait_until_async

OPERATOR = Actor("anna", "command")
TWO = {"m": {"backends": [{"url": "http://127.0.0.1:1/v1"}, {"url": "http://127.0.0.1:2/v1"}]}}


async def told(bench: Bench) -> list[tuple[str, str, str]]:
    return [(one.by, one.action, one.outcome) for one in await entries(bench.client)]


@asynchronous
async def test_a_held_model_starts_nothing_and_the_sweep_pushes_no_tickets(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url) as bench:
        job_id = await bench.admit()
        await bench.redis("HSET", keys.room("m"), "held", Hold.STARTING)
        assert await bench.take_ids(5) == []
        await bench.drop_tickets()
        assert (await bench.sweep()).tickets == 0
        assert await bench.redis("PTTL", keys.room("m")) == -1
        await bench.redis("HDEL", keys.room("m"), "held")
        assert (await bench.sweep()).tickets == 1
        assert await bench.redis("PTTL", keys.room("m")) > 0
        assert await bench.take_ids(5) == [job_id]


@pytest.mark.parametrize("action", ["pause", "drain", "retire"])
@asynchronous
async def test_a_model_is_held_and_let_go_and_both_are_written_down(own_redis: RedisServer, action: Action) -> None:
    async with open_bench(own_redis.url) as bench:
        control = ModelControl(bench.client, bench.catalogue)
        first = await bench.admit()
        held = await control.set_model("m", action, OPERATOR)
        assert (held.before, held.waiting, held.running) == ("active", 1, 0)
        assert (await control.set_model("m", action, OPERATOR)).before == held.now
        assert await bench.take_ids(5) == []
        if action == "retire":
            with pytest.raises(ModelRetired):
                await bench.admit()
        else:
            _, admitted = await bench.admitted()
            assert admitted.before == 1
            assert admitted.line is not None
            assert admitted.line.held == "paused"
        await bench.drop_tickets()
        assert (await control.set_model("m", "resume", OPERATOR)).now == "active"
        assert await bench.tickets() == 1
        assert (await bench.take_ids(5))[0] == first
        newest, *others = await told(bench)
        assert newest == ("anna", "model.resume", f"{held.now} -> active")
        assert others[0][2] == f"unchanged: {held.now}"


@asynchronous
async def test_flex_is_not_let_in_to_wait_for_a_held_model(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url) as bench:
        await ModelControl(bench.client, bench.catalogue).set_model("m", "pause", OPERATOR)
        with pytest.raises(ResourceUnavailable):
            await bench.admit(lane="flex", at_once=True)


@asynchronous
async def test_a_reason_of_another_kind_holds_on_when_an_operator_lets_go(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url) as bench:
        control = ModelControl(bench.client, bench.catalogue)
        await bench.admit()
        await bench.redis("HSET", keys.room("m"), "held", Hold.STARTING)
        await control.set_model("m", "pause", OPERATOR)
        assert (await bench.upkeep.depth())["m"].held == "paused"
        await control.set_model("m", "resume", OPERATOR)
        assert (await bench.upkeep.depth())["m"].held == "starting"
        assert await bench.take_ids(5) == []


@asynchronous
async def test_a_held_backend_is_known_before_anything_is_taken(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url, TWO) as bench:
        control, job_id = ModelControl(bench.client, bench.catalogue), await bench.admit()
        key = key_of(bench.settings.models["m"].backends[0])
        assert (await control.set_backend("m", "127.0.0.1:1", "drain", OPERATOR)).now == "held"
        taken = await bench.leases.take("m", free=5, mine=0, surplus=True)
        assert (taken.off, taken.jobs) == (key, ())
        await control.set_backend("m", "1", "pause", OPERATOR)
        assert (await bench.upkeep.depth())["m"].held == "backend"
        assert (await bench.leases.take("m", free=5, mine=0, surplus=True, off=key)).jobs == []
        await bench.redis("HDEL", keys.room("m"), "held")
        await bench.sweep()  # as after a reload
        assert (await bench.upkeep.depth())["m"].held == "backend"
        await control.set_backend("m", "1", "resume", OPERATOR)
        assert [job.id for job in (await bench.leases.take("m", free=5, mine=0, surplus=True, off=key)).jobs] == [
            job_id
        ]


@asynchronous
async def test_what_does_not_exist_is_told_with_what_does(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url, TWO) as bench:
        models, jobs = ModelControl(bench.client, bench.catalogue), JobControl(bench.client, bench.catalogue)
        with pytest.raises(NoSuch, match="there are: m"):
            await models.set_model("n", "pause", OPERATOR)
        with pytest.raises(NoSuch, match=r"it has: 0 \(127.0.0.1:1\), 1"):
            await models.set_backend("m", "2", "pause", OPERATOR)
        with pytest.raises(NoSuch, match="ended more than a minute ago"):
            await jobs.show("req_" + "0" * 32)
        with pytest.raises(NoSuch, match="no id of a request"):
            await jobs.show("x")
        with pytest.raises(BadFilter, match="lane: must be one of"):
            await jobs.move(["0" * 32], "fast", OPERATOR, "x")
        assert await told(bench) == []


@asynchronous
async def test_jobs_are_ended_by_a_filter_and_their_callers_told(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url) as bench, bench.listening() as heard:
        jobs = JobControl(bench.client, bench.catalogue)
        running, waiting, other = await bench.admit(), await bench.admit(), await bench.admit(tenant="b")
        (job,) = await bench.take()
        ids = [one.id async for one in jobs.matching(JobFilter(token="a"))]
        assert ids == sorted([running, waiting])
        assert [one.id async for one in jobs.matching(JobFilter(older_than_seconds=60))] == []
        done = await jobs.cancel([*ids, "0" * 32], OPERATOR, "token=a")
        assert [what for _, what in done] == ["cancelled", "cancelled", "unknown"]

        async def is_told() -> bool:
            return b"".join(heard).count(b"cancelled_by_operator") == 2

        assert await bench.append(job, b"D1 1 1 1\n{}", end=1) == "e"
        assert await bench.renew((job.id, job.attempt)) == {job.id: Why.OPERATOR}
        assert await bench.release((job.id, job.attempt, How.END)) == "f"
        await wait_until_async(is_told)
        assert f"by-operator {job.id}".encode() in heard  # its worker was told
        again = await jobs.cancel(ids, OPERATOR, "again", quiet=True)
        assert {what for _, what in again} == {"had ended"}
        assert await told(bench) == [("anna", "job.cancel", "1 waiting and 1 running ended, 0 had ended, 1 unknown")]
        assert await bench.take_ids(5) == [other]


@asynchronous
async def test_a_waiting_job_moves_to_another_lane_and_overtakes(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url, {"m": {"concurrency": 1}}) as bench:
        jobs = JobControl(bench.client, bench.catalogue)
        running = await bench.admit()
        (job,) = await bench.take()
        first, second = await bench.admit(), await bench.admit()
        done = dict(await jobs.move([running, second, "0" * 32], "priority", OPERATOR, "some"))
        assert [*done.values()] == ["runs already", "moved", "unknown"]
        assert dict(await jobs.move([second], "priority", OPERATOR, "it")) == {second: "was there"}
        assert (await jobs.show(second)).lane == "priority"
        assert (await bench.admissions.stand("m", [(first, "default"), (second, "default")]))[1] == [1, 0]
        await bench.end(job)
        (taken,) = await bench.take()
        assert (taken.id, taken.spec.lane) == (second, "priority")


@asynchronous
async def test_many_are_ended_in_parts_and_none_is_missed(own_redis: RedisServer) -> None:
    async with open_bench(own_redis.url, {"m": {"max_queue": 5000}}, tenant_share=1) as bench:
        await ModelControl(bench.client, bench.catalogue).set_model("m", "pause", OPERATOR)
        ids = sorted(await asyncio.gather(*(bench.admit() for _ in range(450))))
        jobs = JobControl(bench.client, bench.catalogue)
        found = [job.id async for job in jobs.matching(JobFilter(model="m", state="waiting"))]
        assert found == ids
        assert {what for _, what in await jobs.cancel(found, OPERATOR, "model=m")} == {"cancelled"}
        assert (await bench.upkeep.depth())["m"].waiting["default"] == 0
        assert [action for _, action, _ in await told(bench)] == ["job.cancel"] * 3 + ["model.pause"]


@pytest.mark.parametrize(
    ("held", "told"), [("", ""), ("starting paused", "paused"), ("starting", "starting"), ("newer", "newer")]
)
def test_of_several_reasons_the_most_telling_is_told(held: str, told: str) -> None:
    assert first_hold(held) == told
