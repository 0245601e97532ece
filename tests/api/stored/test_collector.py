"""Answers on their way from Redis into the file store: `Collector` over a real Redis and a real folder."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from api.stored import collector as module
from api.stored.collector import MOST, Collector
from api.stored.completions import StoredCompletions
from api.stored.desk import StoredDesk
from api.stored.keys import PREFIX
from shared import events, keys
from shared.errors import CapacityError, JobLost, NotFound
from shared.files import tenant_folder
from shared.jobs import TakenJob
from shared.protocol import DAY_MS, KEEP_MS, MAX_UNSTORED, STORED
from shared.room.lease import LEASE_MS
from shared.room.leases import How, Why
from shared.room.stored import Known, StoredJobs
from shared.store import Store, open_store
from shared.token_settings import TokenSettings
from tests.support.asynchronous import asynchronous
from tests.support.processes import RedisServer
from tests.support.rooms import HASH, WIRE, Bench, a_spec, open_bench

TENANT = tenant_folder("a")
TOKEN = TokenSettings(name="a", sha256=HASH)


def a_chunk(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    body = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


class Site:
    """A bench whose jobs are to be stored, and two processes that store them."""

    def __init__(self, bench: Bench, store: Store) -> None:
        self.bench = bench
        self.completions = StoredCompletions(store)
        self.jobs = StoredJobs(bench.client, bench.bulk, "one")
        self.one = Collector(self.jobs, self.completions, 30)
        self.two = Collector(StoredJobs(bench.client, bench.bulk, "two"), self.completions, 30)
        self.desk = StoredDesk(self.jobs, self.completions, self.one)

    async def begin(self, body: bytes = b'{"messages":[]}', *, stream: bool = True) -> TakenJob:
        """Have one more job running."""
        await self.bench.admit(sink=STORED, must_finish=True, body=body, spec=a_spec(tenant="a", stream=stream))
        (job,) = await self.bench.take()
        return job

    async def answer(self, *texts: str) -> str:
        """Have one more stream ended well; returns its id."""
        job = await self.begin()
        chunks = [events.chunks(a_chunk(text)) for text in texts]
        last = events.chunks(a_chunk("", "stop") + b"data: [DONE]\n\n")
        told = [events.started(1), *chunks, last, events.completed(events.Completed(1, 2, 3, 4, b""))]
        for at in range(0, len(told), 1000):
            end = 7 if at + 1000 >= len(told) else None
            assert await self.bench.append(job, *told[at : at + 1000], at=at, end=end) in ("o", "w")
        return job.id

    async def answer_plainly(self, body: bytes) -> str:
        """Have one more plain request ended well; returns its id."""
        job = await self.begin(stream=False)
        done = events.completed(events.Completed(1, 2, 3, 4, body))
        assert await self.bench.append(job, done, end=7) in ("o", "w")
        return job.id

    async def text(self, job_id: str) -> str | None:
        """Return what the store has of it."""
        record = await self.completions.get(TENANT, PREFIX + job_id)
        if record is None or record.completion is None:
            return None
        content: str = record.completion["choices"][0]["message"]["content"]
        return content

    async def waiting(self) -> int:
        return await self.jobs.waiting()


@asynccontextmanager
async def open_site(redis: RedisServer, folder: Path) -> AsyncIterator[Site]:
    async with open_bench(redis.url) as bench:
        site = Site(bench, open_store(f"file://{folder}/store"))
        yield site
        await site.one.close()
        await site.two.close()


@asynchronous
async def test_an_answer_stays_in_redis_until_it_is_written(module_redis: RedisServer, tmp_path: Path) -> None:
    async with open_site(module_redis, tmp_path) as site:
        job_id = await site.answer("hel", "lo")
        assert KEEP_MS < await site.bench.redis("PTTL", keys.job(job_id)) <= DAY_MS
        assert await site.one.collect()
        assert (await site.text(job_id), await site.waiting()) == ("hello", 0)
        assert 0 < await site.bench.redis("PTTL", keys.job(job_id)) <= KEEP_MS
        assert 0 < await site.bench.redis("PTTL", keys.log(job_id)) <= KEEP_MS
        usage = (await site.completions.get(TENANT, PREFIX + job_id)).completion["usage"]  # type: ignore[union-attr,index]
        assert usage == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


@asynchronous
async def test_a_stream_of_very_many_events_is_stored(module_redis: RedisServer, tmp_path: Path) -> None:
    async with open_site(module_redis, tmp_path) as site:
        job_id = await site.answer(*["x"] * 9000)  # more than a script could return
        assert await site.one.collect()
        assert await site.text(job_id) == "x" * 9000


@asynchronous
async def test_what_cannot_be_read_holds_up_nothing(module_redis: RedisServer, tmp_path: Path) -> None:
    async with open_site(module_redis, tmp_path) as site:
        gone, broken, odd = [await site.answer("x") for _ in range(3)]
        await site.bench.redis("DEL", keys.job(gone), keys.log(gone))
        await site.bench.redis("HSET", keys.job(broken), "facts", "{")
        await site.bench.redis("LSET", keys.log(odd), 1, b"Cdata: no json\n\n")
        good = await site.answer("good")
        assert await site.one.collect()
        assert await site.waiting() == 0
        assert [await site.text(one) for one in (gone, broken, odd, good)] == [None, None, None, "good"]


@pytest.mark.parametrize("depth", [190, 500, 900, 5000])
@asynchronous
async def test_an_answer_that_is_nested_deeply_holds_up_nothing(
    module_redis: RedisServer, tmp_path: Path, depth: int
) -> None:
    async with open_site(module_redis, tmp_path) as site:
        nested = b"[" * depth + b"]" * depth
        deep = await site.answer_plainly(b'{"id":"x","choices":[{"message":{"content":"deep"}}],"more":%b}' % nested)
        good = await site.answer("good")
        assert await site.one.collect()
        assert (await site.waiting(), await site.text(good)) == (0, "good")
        assert await site.text(deep) == "deep" or depth > 190


@asynchronous
async def test_what_cannot_be_read_is_no_completion_though_redis_has_it(
    module_redis: RedisServer, tmp_path: Path
) -> None:
    async with open_site(module_redis, tmp_path) as site:
        odd, gone = await site.answer("x"), await site.answer("x")
        await site.bench.redis("LSET", keys.log(odd), 1, b"Cdata: no json\n\n")
        await site.bench.redis("DEL", keys.log(gone))
        for job_id in (odd, gone):
            for asked in (site.desk.get, site.desk.messages):
                with pytest.raises(NotFound):
                    await asked(TOKEN, PREFIX + job_id)


@pytest.mark.parametrize("size", [1, 100_000], ids=["small", "apart"])
@asynchronous
async def test_what_is_written_just_as_it_is_asked_for_is_whole(
    module_redis: RedisServer, tmp_path: Path, size: int
) -> None:
    async with open_site(module_redis, tmp_path) as site:
        question = "x" * size
        job = await site.begin(
            b'{"metadata":{"a":"1"},"messages":[{"role":"user","content":"%b"}]}' % question.encode()
        )
        end = events.chunks(a_chunk("x", "stop") + b"data: [DONE]\n\n")
        done = events.completed(events.Completed(1, 2, 3, 4, b""))
        assert await site.bench.append(job, events.started(1), end, done, end=7) in ("o", "w")
        made = PREFIX + job.id

        class Late(StoredJobs):
            """Looks at Redis only once the answer was written."""

            async def look(self, job_id: str) -> Known | None:
                await site.two.collect()
                return await super().look(job_id)

        desk = StoredDesk(Late(site.bench.client, site.bench.bulk, "one"), site.completions, site.one)
        (message,) = await desk.messages(TOKEN, made)
        assert message["content"] == question
        assert (await desk.get(TOKEN, made)).metadata == {"a": "1"}


@asynchronous
async def test_what_another_process_has_not_written_yet_can_be_changed(
    module_redis: RedisServer, tmp_path: Path
) -> None:
    async with open_site(module_redis, tmp_path) as site:
        job_id = await site.answer("x")
        async with site.two.alone():  # it writes others, and has not seen this one
            changing = asyncio.create_task(site.desk.change(TOKEN, PREFIX + job_id, {"a": "1"}))
            await asyncio.sleep(0.1)
        assert (await changing).metadata == {"a": "1"}
        assert await site.one.collect()
        page = await site.desk.page(TOKEN, after=None, limit=2, newest_first=True, model=None, metadata={"a": "1"})
        assert [record.id for record in page.records] == [PREFIX + job_id]
        assert (await site.text(job_id), await site.waiting()) == ("x", 0)


@asynchronous
async def test_a_job_that_its_worker_lost_is_stored_with_what_was_said(
    module_redis: RedisServer, tmp_path: Path
) -> None:
    async with open_site(module_redis, tmp_path) as site:
        job = await site.begin()
        assert await site.bench.append(job, events.started(1), events.chunks(a_chunk("beg"))) == "o"
        assert await site.bench.release((job.id, job.attempt, How.FAIL), wire=WIRE) == "f"
        assert await site.one.collect()
        record = await site.completions.get(TENANT, PREFIX + job.id)
        assert record is not None and record.error == JobLost("given up").body()["error"]
        assert await site.text(job.id) == "beg"


@asynchronous
async def test_more_than_one_round_and_two_processes_at_once(module_redis: RedisServer, tmp_path: Path) -> None:
    async with open_site(module_redis, tmp_path) as site:
        ids = [await site.answer(str(n)) for n in range(2 * MOST + 3)]
        while await site.waiting():
            await asyncio.gather(site.one.collect(), site.two.collect())
        assert [await site.text(job_id) for job_id in ids] == [str(n) for n in range(len(ids))]


@asynchronous
async def test_who_writes_is_alone(module_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.2)
    async with open_site(module_redis, tmp_path) as site:
        job_id = await site.answer("x")
        async with site.one.alone():
            assert not await site.two.collect()
            with pytest.raises(CapacityError):
                async with site.two.alone():
                    raise AssertionError("two at once")
        assert await site.text(job_id) is None
        async with site.two.alone():
            assert await site.jobs.drop([job_id], "b") == b"n"
            assert await site.jobs.drop([job_id], "a") == b"e"
        assert (await site.waiting(), await site.bench.redis("EXISTS", keys.log(job_id))) == (0, 0)


@asynchronous
async def test_a_process_that_died_while_it_wrote_is_followed_by_another(
    module_redis: RedisServer, tmp_path: Path
) -> None:
    async with open_site(module_redis, tmp_path) as site:
        job_id = await site.answer("x")
        assert await StoredJobs(site.bench.client, site.bench.bulk, "dead").hold()
        assert not await site.one.collect()
        lease = keys.feeder(STORED)
        assert 0 < await site.bench.redis("PTTL", lease) <= LEASE_MS
        await site.bench.redis("PEXPIRE", lease, 1)
        await asyncio.sleep(0.01)
        assert await site.one.collect()
        assert (await site.text(job_id), await site.bench.redis("EXISTS", lease)) == ("x", 0)


@asynchronous
async def test_what_is_dropped_before_its_end_leaves_nothing(module_redis: RedisServer, tmp_path: Path) -> None:
    async with open_site(module_redis, tmp_path) as site:
        runs, waits = await site.begin(), await site.bench.admit(sink=STORED, must_finish=True)
        assert await site.jobs.drop([runs.id, waits, "f" * 32]) == b"rwn"
        assert await site.bench.renew(runs) == {runs.id: Why.CANCELLED}
        assert await site.jobs.look(runs.id) is None and await site.jobs.hear(runs.id, "a") is None
        assert await site.bench.release((runs.id, runs.attempt, How.END)) == "e"
        for job_id in (runs.id, waits):
            assert await site.bench.redis("EXISTS", keys.job(job_id), keys.log(job_id)) == 0
        assert await site.waiting() == 0


@asynchronous
async def test_only_so_many_wait_for_a_store(module_redis: RedisServer, tmp_path: Path) -> None:
    async with open_site(module_redis, tmp_path) as site:
        await site.bench.redis("RPUSH", keys.results(STORED), *["f" * 32] * MAX_UNSTORED)
        job_id = await site.answer("one too many")
        assert await site.waiting() == MAX_UNSTORED
        assert 0 < await site.bench.redis("PTTL", keys.job(job_id)) <= KEEP_MS
