"""Who owns a job, what is told to whom, and what no fault of one job may do to others (`shared/scripts/`)."""

from __future__ import annotations

import pytest

from shared import keys
from shared.errors import QueueFull
from shared.protocol import ORPHANS, PROTOCOL
from shared.room.admission import Idempotency
from shared.room.leases import How
from shared.room.upkeep import OtherProtocol, Upkeep
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import Bench, heard_frames, open_bench

KEY = Idempotency("key", "body")


async def joined(bench: Bench) -> str:
    """Admit a job that two API processes wait for, `api` and `other`; returns its id."""
    await bench.beat("other")
    job_id = await bench.admit(idempotency=KEY)
    _, place = await bench.admitted(owner="other", idempotency=KEY)
    assert place.job_id == job_id
    return job_id


@asynchronous
async def test_each_owner_hears_the_events(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job_id = await joined(bench)
        (job,) = await bench.take()
        async with bench.listening("api") as one, bench.listening("other") as two:
            await bench.append(job, b"Cx")
            assert await heard_frames(one) == await heard_frames(two) == [(job_id, 0, b"Cx")]


@pytest.mark.parametrize("order", [("api", "other"), ("other", "api")])
@pytest.mark.parametrize("state", ["waiting", "running"])
@asynchronous
async def test_only_the_last_owners_leaving_cancels(
    room_redis: RedisServer, order: tuple[str, str], state: str
) -> None:
    async with open_bench(room_redis.url) as bench:
        job_id = await joined(bench)
        if state == "running":
            await bench.take()
        assert await bench.cancel(job_id, owner=order[0]) == "o"
        assert await bench.cancel(job_id, owner=order[0]) == "n"
        record = await bench.record(job_id)
        assert (record["state"], record["owners"], record["cancelled"]) == (state, order[1], "")
        assert await bench.cancel(job_id, owner=order[1]) == ("w" if state == "waiting" else "r")


@asynchronous
async def test_a_dead_owner_leaves_the_job_to_the_others(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        job_id = await joined(bench)
        await bench.beat("other", gone=True)
        assert (await bench.sweep()).orphaned == 0
        assert (await bench.record(job_id))["owners"] == "api"
        assert await bench.take_ids() == [job_id]


@asynchronous
async def test_what_its_only_owner_has_handed_on_is_dropped(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        shared, own, running = await joined(bench), await bench.admit(), await bench.admit()
        for job in await bench.take(3):
            if job.id != running:
                await bench.end(job)
        assert await bench.admissions.forget([shared, own, running]) == 1
        assert await bench.redis("EXISTS", keys.job(own), keys.log(own)) == 0
        assert await bench.redis("EXISTS", keys.log(shared)) == 1
        assert (await bench.record(running))["state"] == "running"


@asynchronous
async def test_a_job_is_handed_over_only_where_another_worker_lives(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.admit()
        (job,) = await bench.take()
        assert await bench.release((job.id, job.attempt, How.AWAY), worker="w1") == "n"
        await bench.serve("w2")
        await bench.redis("ZADD", keys.workers("m"), 1, "w2")  # heard of long ago
        assert await bench.release((job.id, job.attempt, How.AWAY), worker="w1") == "n"
        await bench.serve("w2")
        assert await bench.release((job.id, job.attempt, How.AWAY), worker="w1") == "b"


@asynchronous
async def test_a_job_that_is_given_up_again_and_again_is_told_after_its_last_try(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"max_attempts": 2}}) as bench:
        job_id = await bench.admit()
        (first,) = await bench.take()
        assert await bench.release((job_id, first.attempt, How.AGAIN)) == "b"
        (second,) = await bench.take()
        assert second.tries == 2
        assert await bench.release((job_id, second.attempt, How.AGAIN)) == "f"
        (event,) = await bench.log(job_id)
        assert event.startswith(b"E")


@asynchronous
async def test_what_a_refused_request_brought_is_gone_with_its_refusal(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"concurrency": 1, "max_queue": 0}}) as bench:
        await bench.admit()
        large = b"x" * 200_000
        with pytest.raises(QueueFull):
            await bench.admit(body=large)
        assert await bench.redis("KEYS", keys.PREFIXES["body"] + "*") == []
        # Between the question and the body the last place may be taken.
        await bench.cancel(*[key.decode().rpartition(":")[2] for key in await bench.redis("KEYS", keys.job("*"))])
        store, taken = bench.bulk.store, []

        async def store_late(key: str, body: bytes, px_ms: int) -> None:
            await store(key, body, px_ms)
            taken.append(await bench.admit())

        bench.admissions._bulk = _Late(store_late)  # type: ignore[assignment]
        with pytest.raises(QueueFull):
            await bench.admit(body=large)
        assert len(taken) == 1
        assert await bench.redis("KEYS", keys.PREFIXES["body"] + "*") == []


class _Late:
    """The real connection for bodies, with something that happens just behind each of them."""

    def __init__(self, store: object) -> None:
        self.store = store


@asynchronous
async def test_a_share_that_cannot_be_settled_costs_no_answer(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        one, two = await bench.admit(), await bench.admit()
        await bench.admit()
        jobs = {job.id: job for job in await bench.take(2)}
        for key in (keys.PREFIXES["tags"] + "default:m", keys.room("m")):
            await bench.redis("SET", key, "no hash")
        for job_id in (one, two):
            assert await bench.append(jobs[job_id], b"D1 1 1 1\n{}", end=5) == "w"
            assert await bench.log(job_id) == [b"D1 1 1 1\n{}"]
            assert (await bench.record(job_id))["state"] == "ended"


@asynchronous
async def test_a_job_that_makes_the_script_fail_fails_alone(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        ids = [await bench.admit() for _ in range(3)]
        jobs = {job.id: job for job in await bench.take(3)}
        await bench.redis("SET", keys.log(ids[1]), "no list")
        assert [await bench.append(jobs[one], b"Cx") for one in ids] == ["o", "x", "o"]


@asynchronous
async def test_one_models_fault_hides_no_other_from_the_sweep(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {}, "n": {}}) as bench:
        late = await bench.admit(model="n")
        await bench.expire_wait(late, model="n")
        await bench.redis("DEL", keys.PREFIXES["waits"] + "m")
        await bench.redis("SET", keys.PREFIXES["waits"] + "m", "no sorted set")
        swept = await bench.sweep()
        assert swept.expired == 1
        assert len(swept.failures) == 1


@asynchronous
async def test_one_sweep_clears_so_many_jobs_of_a_dead_process_and_no_more(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"max_queue": 10_000}}, tenant_share=1) as bench:
        await bench.beat("dead")
        for _ in range(ORPHANS + 100):
            await bench.admit(owner="dead")
        await bench.beat("dead", gone=True)
        assert [(await bench.sweep()).orphaned for _ in range(3)] == [ORPHANS, 100, 0]
        assert await bench.redis("SMEMBERS", keys.OWNERS) == [b"api"]


@asynchronous
async def test_a_clock_that_was_set_back_holds_no_recovery_up(room_redis: RedisServer) -> None:
    """What an hour of difference leaves behind: everything that Redis was told lies an hour ahead."""
    async with open_bench(room_redis.url) as bench:
        await bench.upkeep.sweep()
        job_id = await bench.admit()
        (job,) = await bench.take()
        (seconds, _) = await bench.redis("TIME")
        ahead = (int(seconds) + 3600) * 1000
        await bench.redis("PEXPIRE", keys.SWEEPER, 3_600_000)
        await bench.redis("SET", keys.SWEPT, ahead)
        await bench.redis("ZADD", keys.running("m"), ahead, job_id)
        await bench.redis("ZADD", keys.workers("m"), ahead, "w1")
        assert await bench.upkeep.sweep() is not None
        assert await bench.redis("ZSCORE", keys.running("m"), job_id) <= b"%d" % (ahead - 3_590_000)
        await bench.serve("w1")
        assert await bench.renew(job) == {}
        await bench.expire_lease(job_id)
        assert (await bench.sweep()).reclaimed == 1


@asynchronous
async def test_processes_of_another_protocol_are_told_by_name(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.upkeep.hello()
        await Upkeep(bench.client, bench.catalogue, "another").hello()  # of the same protocol
        (seconds, _) = await bench.redis("TIME")
        await bench.redis("ZADD", keys.PROCESSES, int(seconds) * 1000, f"{PROTOCOL + 1} newer-api")
        with pytest.raises(OtherProtocol, match=f"protocol {PROTOCOL + 1} .newer-api.") as refused:
            await bench.upkeep.hello()
        assert "Stop them first" in str(refused.value)
        await bench.redis("DEL", keys.PROCESSES)
        await bench.redis("SADD", "aq:owners", "older-api")
        await bench.upkeep.hello()  # its heartbeat is over
        await bench.redis("SET", "aq:owner:older-api", "1")
        with pytest.raises(OtherProtocol, match="older-api"):
            await bench.upkeep.hello()


@asynchronous
async def test_the_oldest_wait_is_seen_behind_requests_with_shorter_limits(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        oldest = await bench.admit()
        admitted = int((await bench.record(oldest))["admitted"])
        await bench.wait_ms(30)
        await bench.admit(client_seconds=2)  # its deadline is nearer
        (seconds, micros) = await bench.redis("TIME")
        waited = int(seconds) * 1000 + int(micros) // 1000 - admitted
        depth = (await bench.upkeep.depth())["m"]
        assert depth.oldest_request_ms == depth.oldest_ms >= waited >= 30


@asynchronous
async def test_the_oldest_request_is_told_apart_from_older_lines_of_batches(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:

        async def oldest() -> tuple[int, int]:
            depth = (await bench.upkeep.depth())["m"]
            return depth.oldest_ms, depth.oldest_request_ms

        assert await oldest() == (0, 0)
        line = await bench.admit(lane="batch", must_finish=True)
        await bench.wait_ms(50)
        of_line, of_request = await oldest()
        assert of_line >= 50
        assert of_request == 0  # nobody waits
        request = await bench.admit()
        await bench.wait_ms(20)
        between = int((await bench.record(request))["admitted"]) - int((await bench.record(line))["admitted"])
        of_line, of_request = await oldest()
        assert of_request >= 20
        assert of_line - of_request == between >= 50


@asynchronous
async def test_of_large_bodies_a_worker_takes_what_it_has_room_for(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        large = [await bench.admit(body=b"x" * 100_000) for _ in range(3)]
        small = await bench.admit()
        taken = await bench.leases.take("m", free=4, mine=0, surplus=True, bulk_bytes=250_000)
        assert [job.id for job in taken.jobs] == [*large[:2], small]  # whoever stands behind it may go
        assert not taken.more  # for this worker, now
        again = await bench.leases.take("m", free=4, mine=2, surplus=True, bulk_bytes=250_000)
        assert [job.id for job in again.jobs] == [large[2]]
        assert (await bench.upkeep.depth())["m"].running == 4


@asynchronous
async def test_a_worker_that_looks_for_the_last_time_takes_its_promise_back(room_redis: RedisServer) -> None:
    """Else whoever comes within the promise's time would wake nobody, and wait for the sweep."""
    async with open_bench(room_redis.url) as bench:
        for waiting in (0, 1):
            for _ in range(waiting):
                await bench.admit()
            await bench.leases.take("m", free=1, mine=0, surplus=True, awake_ms=20_000)
            await bench.redis("SET", keys.PREFIXES["awake"] + "m", "1", "PX", 20)  # as it is just after a look
            await bench.leases.take("m", free=1, mine=0, surplus=True)
            await bench.drop_tickets()
            await bench.admit()
            assert await bench.tickets() == 1
            await bench.take()
