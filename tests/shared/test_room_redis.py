"""The scripts and Redis itself: full memory, forgotten scripts, tickets' bytes, key names and lifetimes."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from shared import keys
from shared.broker import TICKET_TASK, celery_app, event_batch, event_topic
from shared.errors import BrokerUnavailable
from shared.protocol import SHARED
from shared.redis import RedisRefused
from shared.room.admission import Idempotency
from shared.room.leases import How
from shared.room.scripts import ADMIT
from tests.support.asynchronous import asynchronous
from tests.support.keys import ALLOWED_WITHOUT_LIFETIME, keys_without_lifetime
from tests.support.processes import ROOT, RedisServer
from tests.support.rooms import Bench, open_bench, settings_of

LUA = sorted((ROOT / "shared" / "scripts").rglob("*.lua"))


@asynccontextmanager
async def full_memory(bench: Bench) -> AsyncIterator[None]:
    await bench.redis("CONFIG", "SET", "maxmemory", "1mb")
    try:
        with pytest.raises(RedisRefused, match="OOM"):
            await bench.redis("SET", "probe", "x")
        yield
    finally:
        await bench.redis("CONFIG", "SET", "maxmemory", "0")


@asynchronous
async def test_everything_but_admission_works_at_maxmemory(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        for _ in range(7):
            await bench.admit()
        jobs = await bench.take(4)
        waiting = [entry.decode() for entry in await bench.redis("ZRANGE", keys.lane("default", "m"), 0, -1)]
        await bench.expire_lease(jobs[3].id)
        await bench.expire_wait(waiting[1])
        async with full_memory(bench):
            await bench.beat("api")
            await bench.beat("other", gone=True)
            held = [(job.id, job.attempt) for job in jobs[:3]]
            assert await bench.renew(*held) == {}
            assert await bench.cancel(waiting[0], jobs[0].id) == "wr"
            assert await bench.release((*held[0], How.END)) == "e"
            assert await bench.append(jobs[1], b"D1 1 1 1\nbody", end=10) == "w"
            assert await bench.release((*held[2], How.AWAY)) == "b"
            assert (await bench.sweep())[:2] == (1, 1)
            assert len(await bench.take(5)) == 3
            assert (await bench.admissions.peek([(jobs[1].id, 0)], 1000))[0].events[0] == b"D1 1 1 1\nbody"
            await bench.leases.leave(["m"])


@pytest.mark.parametrize("token", [{}, {"concurrent_jobs": 5}, {"requests_per_minute": 5, "concurrent_jobs": 5}])
def test_admission_at_maxmemory_is_refused_and_leaves_nothing(room_redis: RedisServer, token: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with open_bench(room_redis.url) as bench:
            await bench.admit("e" * 32, **token)
            async with full_memory(bench):
                before = sorted(await bench.redis("KEYS", "*"))
                for body in (b"{}", b"x" * 100_000):
                    with pytest.raises(BrokerUnavailable):
                        await bench.admit(body=body, **token)
                    with pytest.raises(BrokerUnavailable):
                        await bench.admit(body=body, idempotency=Idempotency("k", "h"), **token)
                assert sorted(await bench.redis("KEYS", "*")) == before
            assert await bench.take_ids(5) == ["e" * 32]

    asyncio.run(scenario())


@asynchronous
async def test_scripts_that_redis_has_forgotten_are_sent_again(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.upkeep.open()
        job_id = await bench.admit()
        await bench.redis("SCRIPT", "FLUSH")
        assert await bench.take_ids() == [job_id]
        await bench.redis("SCRIPT", "FLUSH")
        # Many callers at once meet it; each is answered.
        assert await asyncio.gather(*(bench.cancel(job_id) for _ in range(20))) == ["r"] * 20


@asynchronous
async def test_loading_leaves_no_script_to_be_sent_later(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.redis("SCRIPT", "FLUSH")
        await bench.upkeep.open()
        await bench.admit()
        (job,) = await bench.take()
        await bench.end(job)
        await bench.sweep()
        await bench.cancel(job.id)
        statistics = (await bench.redis("INFO", "errorstats")).decode()
        before = re.findall(r"errorstat_NOSCRIPT:count=(\d+)", statistics)
        await bench.renew()
        await bench.release()
        await bench.admissions.peek([], 1)
        await bench.beat("api")
        statistics = (await bench.redis("INFO", "errorstats")).decode()
        assert re.findall(r"errorstat_NOSCRIPT:count=(\d+)", statistics) == before


def without_ids(raw: bytes) -> dict[str, Any]:
    """Return a ticket with every id and the names of the sending process blanked."""
    message: dict[str, Any] = json.loads(raw)
    headers, properties = message["headers"], message["properties"]
    assert headers["id"] == headers["root_id"] == properties["correlation_id"]
    for holder, names in (
        (headers, ("id", "root_id", "origin")),
        (properties, ("correlation_id", "delivery_tag", "reply_to")),
    ):
        for name in names:
            holder[name] = "…"
    return message


@asynchronous
async def test_a_ticket_is_what_celerys_own_send_task_puts_into_the_list(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"vendor/model:7b": {}}) as bench:
        model = "vendor/model:7b"
        await bench.serve("w1")
        job_id = await bench.admit(model=model)
        (ours,) = await bench.redis("LRANGE", keys.queue(model), 0, -1)
        await bench.drop_tickets(model)
        app = celery_app(settings_of({model: {}}, room_redis.url))
        await asyncio.to_thread(app.send_task, TICKET_TASK, args=(model,), queue=keys.queue(model), ignore_result=True)
        app.close()
        (theirs,) = await bench.redis("LRANGE", keys.queue(model), 0, -1)
        assert json.loads(ours)["headers"]["id"] == job_id
        mine, celerys = without_ids(ours), without_ids(theirs)
        assert base64.b64decode(mine["body"]) == base64.b64decode(celerys["body"])
        assert mine == celerys


@asynchronous
async def test_a_batch_of_job_events_is_what_celerys_own_dispatcher_publishes(room_redis: RedisServer) -> None:
    url = room_redis.url.rpartition("/")[0] + "/3"
    events = [{"type": "task-succeeded", "uuid": "1", "hostname": "w1@host"}]
    app = celery_app(settings_of({"m": {}}, url))
    with redis.Redis.from_url(url) as listener, listener.pubsub() as heard, app.connection_for_write() as connection:
        heard.psubscribe("*")
        heard.get_message(timeout=5)
        dispatcher = app.events.Dispatcher(connection, hostname="w1@host", buffer_while_offline=False)
        dispatcher._publish(events, dispatcher.producer, "task.multi")
        theirs = heard.get_message(timeout=5)
        listener.publish(event_topic(url), event_batch(json.dumps(events).encode(), "w1@host"))
        ours = heard.get_message(timeout=5)
    app.close()
    assert ours["channel"] == theirs["channel"]
    message, celerys = json.loads(ours["data"]), json.loads(theirs["data"])
    for one in (message, celerys):
        one["body"] = json.loads(base64.b64decode(one["body"]))
        assert one["properties"].pop("delivery_tag")
    assert message == celerys


@asynchronous
async def test_a_ticket_carries_neither_prompt_nor_token(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url) as bench:
        await bench.admit(tenant="canary-tenant", body=b'{"canary":"prompt"}')
        (ticket,) = await bench.redis("LRANGE", keys.queue("m"), 0, -1)
        text = ticket + base64.b64decode(json.loads(ticket)["body"])
        assert b"canary" not in text


@pytest.mark.parametrize("file", LUA, ids=lambda path: path.name)
def test_scripts_use_only_names_and_numbers_that_are_described(file: Path) -> None:
    text = file.read_text()
    assert set(re.findall(r"NAMES\.(\w+)", re.sub(r"--.*", "", text))) <= {*keys.PREFIXES, *keys.SINGLES}
    assert set(re.findall(r"\b[A-Z][A-Z_]+_[A-Z_]+\b", re.sub(r"'[^']*'|--.*", "", text))) <= set(SHARED)
    assert not re.findall(r"'aq", text)
    assert "KEYS[" not in text


def test_scripts_and_python_make_the_same_names() -> None:
    assert keys.job("x") == keys.PREFIXES["job"] + "x"
    assert keys.lane("flex", "x") == keys.PREFIXES["lane"] + "flex:x"
    names = {**keys.PREFIXES, **keys.SINGLES}
    assert f"'{names['lane']}' .. lane .. ':' .. model" in ADMIT.source
    assert "NAMES" not in ADMIT.source
    assert "LIVE_WORKER_MS" not in ADMIT.source
    assert len(set(names.values())) == len(names)


@asynchronous
async def test_models_whose_names_resemble_keys_do_not_collide(room_redis: RedisServer) -> None:
    models: dict[str, dict[str, Any]] = {"b": {}, "default:b": {}, "batch:b": {}}
    async with open_bench(room_redis.url, models) as bench:
        ids = {name: await bench.admit(model=name, lane="batch") for name in models}
        for name in models:
            assert await bench.take_ids(5, model=name) == [ids[name]]


@asynchronous
async def test_every_key_has_a_lifetime_once_a_heartbeat_and_a_sweep_have_passed(room_redis: RedisServer) -> None:
    allowed = (*ALLOWED_WITHOUT_LIFETIME, *map(re.escape, keys.WITHOUT_LIFETIME), re.escape(keys.queue("")) + ".*")

    async def check() -> None:
        await bench.beat("api")
        await bench.sweep()
        with room_redis.client() as client:
            assert keys_without_lifetime(client, allowed) == []

    async with open_bench(room_redis.url) as bench:
        given: dict[str, Any] = {"concurrent_jobs": 99, "requests_per_minute": 99}
        large = await bench.admit(body=b"x" * 70_000, lane="flex", idempotency=Idempotency("k", "h"), **given)
        await check()
        await bench.cancel(large)
        await check()
        for lane in ("priority", "default", "flex", "batch"):
            for _ in range(2):
                await bench.admit(lane=lane, tenant=lane, **given)
        await check()
        jobs = await bench.take(8)
        await check()
        await bench.end(jobs[0])
        await bench.append(jobs[1], b"Cx")
        await bench.append(jobs[1], b"Cy", at=1)
        await bench.release((jobs[2].id, jobs[2].attempt, How.AWAY))
        await check()
        for job in jobs[3:6]:
            await bench.expire_lease(job.id)
        await bench.sweep()
        await check()
        await bench.take(1)
        await check()
        waiting = await bench.admit()
        await bench.expire_wait(waiting)
        await bench.redis("ZADD", keys.workers("m"), 1, "w1")
        for _ in range(2):
            await check()
        await bench.cancel(*(job.id for job in jobs))
        await bench.beat("api", gone=True)
        await bench.sweep()
        await check()


@asynchronous
async def test_nothing_stays_after_the_last_job(room_redis: RedisServer) -> None:
    async with open_bench(room_redis.url, {"m": {"max_queue_tokens": 10_000, "max_queue_bytes": 10_000}}) as bench:
        given: dict[str, Any] = {"concurrent_jobs": 9}
        for lane in ("priority", "default", "flex", "batch"):
            for _ in range(2):
                await bench.admit(lane=lane, **given)
        for job in await bench.take(8):
            await bench.end(job)
        left = {re.sub(rb":([0-9a-f]{32}|[0-9]+)$", b"", key) for key in await bench.redis("KEYS", "aq2:*")}
        assert left == {b"aq2:job", b"aq2:log", b"aq2:room:m", b"aq2:owner:api", b"aq2:owners", b"aq2:workers:m",
                        b"aq2:usage"}  # fmt: skip
        assert [int(x) for x in await bench.redis("HMGET", keys.room("m"), "tokens", "bytes")] == [0, 0]
