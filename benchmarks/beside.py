"""People beside batches, and tenants beside each other: the `beside` scenario.

Requests come at random moments, whatever becomes of those before them, to a model whose slots a batch fills; the time
to the first token is taken with the batch and without. Then one tenant queues thousands of jobs, another one; and both
so many that their shares can be counted in tokens, in the default lane and in the batch lane.
"""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import yaml

from benchmarks.processes import BenchmarkError, Child, free_port, wait_for
from benchmarks.report import Table
from benchmarks.runner import Runner
from shared import keys
from shared.catalogue import Catalogue
from shared.config import load_settings
from shared.jobs import JobSpec, new_id
from shared.kinds import KINDS
from shared.redis import RedisClient
from shared.redis.bulk import Bulk
from shared.room.admission import Admission, Admissions
from shared.tokens import hash_token, new_token

SHORT_SECONDS: Final = 0.2
LONG_SECONDS: Final = 10.0
PATIENCE_MS: Final = 100
SLOTS: Final = 32
FEW_SLOTS: Final = 8
JOB_SECONDS: Final = 0.2
WEIGHTS: Final = {"a": 1, "b": 3}
ANSWERS: Final = {"a": 16, "b": 64}
"""Tokens of each tenant's answers: what one pays for is not what the other does."""
CALLERS: Final = 32
OWNER: Final = "benchmark-owner"


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway that runs, and how it is reached."""

    run: Runner
    config: Path
    url: str
    tokens: dict[str, str]

    def sdk(self, tenant: str) -> openai.OpenAI:
        """Return a client with a tenant's token; the caller closes it."""
        return openai.OpenAI(base_url=self.url, api_key=self.tokens[tenant], timeout=60)

    def count(self, name: str) -> int:
        """Return how many members a sorted set has."""
        return int(self.run.stack.redis.zcard(name))


def beside(run: Runner) -> dict[str, Any]:
    """First tokens beside a batch, and shares of two tenants."""
    run.stack.stop_gateway()
    run.stack.redis.flushall()
    with _up(run) as site:
        data = {"first token": _first_tokens(site), "shares": _shares(site)}
    run.stack.start_gateway()
    return data


@contextmanager
def _up(run: Runner) -> Iterator[Site]:
    tokens, port = {name: new_token() for name in WEIGHTS}, free_port()
    config = run.stack.folder / "beside.yaml"
    config.write_text(yaml.safe_dump(_settings(run, tokens)))
    up = Child.python("aqueduct", "up", "--config", config, "--port", str(port), log_file=run.stack.folder / "up.log")
    try:
        wait_for([up], f"http://127.0.0.1:{port}/readyz", seconds=60)
        yield Site(run, config, f"http://127.0.0.1:{port}/v1", tokens)
    finally:
        up.stop(timeout_seconds=40)


def _settings(run: Runner, tokens: dict[str, str]) -> dict[str, Any]:
    def model(name: str, slots: int, **more: Any) -> dict[str, Any]:
        backend = {"url": f"http://127.0.0.1:{run.stack.backend_port}/v1", "model": f"bench?{name}"}
        return {"concurrency": slots, "max_queue": 100_000, "max_wait_seconds": 600, "backends": [backend], **more}

    pace = "token_seconds=0.02"
    job = f"delay_seconds={JOB_SECONDS}"
    data = run.stack.folder / f"up-{secrets.token_hex(4)}"
    return {
        "redis_url": run.stack.redis_url,
        "data_dir": str(data),
        "storage": {"url": f"file://{data}/store"},
        "flower": {"port": free_port()},
        "worker": {"drain_seconds": 0},
        "tenant_share": 1,
        "models": {
            "short": model(f"delay_seconds={SHORT_SECONDS}&{pace}", SLOTS),
            "long": model(f"delay_seconds={LONG_SECONDS}&{pace}", SLOTS, preempt_batch_after_ms=PATIENCE_MS),
            "other": model(pace, SLOTS),
            "shared": model(job, FEW_SLOTS),
            "shared-batch": model(job, FEW_SLOTS, batch_reserve=0),
        },
        "tokens": [
            {"name": name, "sha256": hash_token(token), "weight": WEIGHTS[name]} for name, token in tokens.items()
        ],
    }


# --- beside a batch ---------------------------------------------------------------------------------------------------


def _first_tokens(site: Site) -> dict[str, Any]:
    seconds = 10 if site.run.quick else 40
    plans = [("short", ("short", "other"), 8.0), ("long", ("long",), 3.0)]
    table = Table(
        "Time to the first token beside a batch, ms",
        ["model", "idle p50", "beside p50", "added", "idle p99", "beside p99", "added", "ratio"],
        note=f"{SLOTS} slots; lines take {SHORT_SECONDS} s (short) or {LONG_SECONDS:g} s (long, they make room after "
        f"{PATIENCE_MS} ms); other has no batch of its own.",
    )
    data: dict[str, Any] = {}
    for busy, models, rate in plans:
        idle = asyncio.run(_streams(site, models, rate, seconds))
        with _batch(site, busy, "a", 40_000):
            beside = asyncio.run(_streams(site, models, rate, seconds))
        for name in models:
            (p50, p99), (p50_beside, p99_beside) = _ms(idle[name]), _ms(beside[name])
            table.add(name, p50, p50_beside, p50_beside - p50, p99, p99_beside, p99_beside - p99, p99_beside / p99)
            data[name] = {"idle": (p50, p99), "beside": (p50_beside, p99_beside), "requests": len(beside[name])}
    table.print()
    return data


def _ms(seconds: Sequence[float]) -> tuple[float, float]:
    ranked = sorted(seconds)
    return statistics.median(ranked) * 1000, ranked[min(len(ranked) - 1, int(len(ranked) * 0.99))] * 1000


async def _streams(site: Site, models: Sequence[str], rate: float, seconds: float) -> dict[str, list[float]]:
    """Send so many requests a second to each model, at random moments; returns when each one's first token came."""
    found: dict[str, list[float]] = {name: [] for name in models}
    headers = {"authorization": f"Bearer {site.tokens['b']}"}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=site.url, headers=headers, timeout=60, limits=limits) as client:
        await asyncio.gather(*(_first_token(client, name) for name in models for _ in range(4)))  # warm connections
        running, draw = [], random.Random(1)
        loop = asyncio.get_running_loop()
        due = loop.time()
        for _ in range(int(rate * seconds)):
            due += draw.expovariate(rate)
            await asyncio.sleep(max(0.0, due - loop.time()))
            running += [asyncio.create_task(_timed(client, name, found[name])) for name in models]
        await asyncio.gather(*running)
    return found


async def _timed(client: httpx.AsyncClient, model: str, found: list[float]) -> None:
    found.append(await _first_token(client, model))


async def _first_token(client: httpx.AsyncClient, model: str) -> float:
    body = {"model": model, "stream": True, "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]}
    began, first = time.monotonic(), 0.0
    async with client.stream("POST", "/chat/completions", json=body) as answer:
        text = ""
        async for part in answer.aiter_text():
            text += part
            if not first and '"content":"0' in text.replace(" ", ""):
                first = time.monotonic() - began
    if answer.status_code != 200 or not first or not text.rstrip().endswith("[DONE]"):
        raise BenchmarkError(f"{answer.status_code} {text[-300:]}")
    return first


@contextmanager
def _batch(site: Site, model: str, tenant: str, count: int) -> Iterator[str]:
    """Have a batch fill the model's slots meanwhile."""
    with site.sdk(tenant) as client:
        file = client.files.create(file=("in.jsonl", _lines(model, tenant, count)), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        for _ in range(300):
            if site.count(keys.running(model)) >= FEW_SLOTS - 1:
                break
            time.sleep(0.1)
        else:
            raise BenchmarkError(f"no batch runs on {model}")
        time.sleep(2)
        try:
            yield batch.id
        finally:
            client.batches.cancel(batch.id)


def _lines(model: str, tenant: str, count: int) -> bytes:
    messages = [{"role": "user", "content": f"a line of {tenant}"}]
    body = {"model": model, "messages": messages, "max_tokens": ANSWERS[tenant]}
    rows = ({"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(count))
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


# --- beside each other ------------------------------------------------------------------------------------------------


def _shares(site: Site) -> dict[str, Any]:
    quick = site.run.quick
    waits = asyncio.run(_behind_thousands(site, 2_000 if quick else 10_000))
    lane = asyncio.run(_lane_share(site, 15.0 if quick else 60.0))
    batch = _batch_share(site, 15.0 if quick else 60.0)
    table = Table("Two tenants on one model", ["measure", "wanted", "found"])
    slots = f"{FEW_SLOTS} slots of {JOB_SECONDS * 1000:g} ms"
    table.add(f"one request behind thousands, {slots}: median ms", JOB_SECONDS * 2000, statistics.median(waits) * 1000)
    table.add("the same: worst of 20, ms", JOB_SECONDS * 2000, max(waits) * 1000)
    wanted = WEIGHTS["b"] / WEIGHTS["a"]
    table.add("tokens of weight 3 to those of weight 1, default lane", wanted, lane)
    table.add("the same in the batch lane", wanted, batch)
    table.print()
    return {"behind thousands": waits, "default lane": lane, "batch lane": batch}


@contextmanager
def _admissions(site: Site) -> Iterator[tuple[RedisClient, Admissions, Catalogue]]:
    settings = load_settings(site.config)
    catalogue = Catalogue(settings)
    client = RedisClient(settings.redis, timeout_seconds=30)
    yield client, Admissions(client, Bulk(settings.redis, "benchmark"), catalogue, OWNER), catalogue


async def _queue(admissions: Admissions, catalogue: Catalogue, tenant: str, count: int) -> list[str]:
    """Put so many jobs of a tenant into the room of `shared`, as an API process does; returns their ids."""
    token = next(token for token in catalogue.settings.tokens if token.name == tenant)
    kind, ids = KINDS["chat.completions"], [new_id() for _ in range(count)]
    messages = [{"role": "user", "content": f"a job of {tenant}"}]
    request = kind.validate({"model": "shared", "messages": messages, "max_tokens": ANSWERS[tenant]})
    accepted = kind.accept(request, catalogue.models["shared"])
    spec = JobSpec(
        kind=kind.name, tenant=tenant, created=int(time.time()), public_model="shared", options=accepted.options
    )
    for at in range(0, count, 200):
        jobs = (
            Admission(
                id=job_id, model="shared", token=token, lane="default", owner=OWNER, body=accepted.body, spec=spec,
                cost=accepted.cost, must_finish=True,
            )
            for job_id in ids[at : at + 200]
        )  # fmt: skip
        await asyncio.gather(*map(admissions.admit, jobs))
    return ids


async def _drop(admissions: Admissions, ids: Sequence[str]) -> None:
    for at in range(0, len(ids), 500):
        await admissions.cancel(ids[at : at + 500])


async def _behind_thousands(site: Site, count: int) -> list[float]:
    """Return how long single requests of one tenant take while another has queued so many."""
    headers = {"authorization": f"Bearer {site.tokens['b']}"}
    body = {"model": "shared", "messages": [{"role": "user", "content": "one"}], "max_tokens": 16}
    with _admissions(site) as (redis, admissions, catalogue):
        await redis.open()
        await admissions.beat()
        ids = await _queue(admissions, catalogue, "a", count)
        found = []
        async with httpx.AsyncClient(base_url=site.url, headers=headers, timeout=120) as client:
            for _ in range(20):
                began = time.monotonic()
                answer = await client.post("/chat/completions", json=body)
                found.append(time.monotonic() - began)
                if answer.status_code != 200:
                    raise BenchmarkError(answer.text[:300])
        await _drop(admissions, ids)
        await redis.close()
    return found


async def _lane_share(site: Site, seconds: float) -> float:
    """Return the ratio of the tokens that two tenants got, each of which sends its next request with every answer."""
    spent = dict.fromkeys(WEIGHTS, 0)
    until = time.monotonic() + seconds + 3  # the first are let pass
    async with httpx.AsyncClient(base_url=site.url, timeout=120, limits=httpx.Limits(max_connections=None)) as client:
        one = [
            asyncio.create_task(_ask_on(site, client, name, spent, until)) for name in WEIGHTS for _ in range(CALLERS)
        ]
        await asyncio.sleep(3)
        before = dict(spent)
        await asyncio.gather(*one)
    return (spent["b"] - before["b"]) / (spent["a"] - before["a"])


async def _ask_on(site: Site, client: httpx.AsyncClient, tenant: str, spent: dict[str, int], until: float) -> None:
    headers = {"authorization": f"Bearer {site.tokens[tenant]}"}
    messages = [{"role": "user", "content": f"a job of {tenant}"}]
    body = {"model": "shared", "messages": messages, "max_tokens": ANSWERS[tenant]}
    while time.monotonic() < until:
        answer = await client.post("/chat/completions", json=body, headers=headers)
        if answer.status_code != 200:
            raise BenchmarkError(answer.text[:300])
        spent[tenant] += answer.json()["usage"]["total_tokens"] if time.monotonic() < until else 0


def _batch_share(site: Site, seconds: float) -> float:
    """Return the same of two batches."""
    count = int(FEW_SLOTS / JOB_SECONDS * (seconds + 10))
    with (
        _batch(site, "shared-batch", "a", count) as one,
        _batch(site, "shared-batch", "b", count) as other,
        site.sdk("a") as first,
        site.sdk("b") as second,
    ):
        before = _spent(first, one), _spent(second, other)
        time.sleep(seconds)
        after = _spent(first, one), _spent(second, other)
    return (after[1] - before[1]) / (after[0] - before[0])


def _spent(client: openai.OpenAI, batch_id: str) -> int:
    """Return what a batch's lines have used so far."""
    rows = client.get(f"/batches/{batch_id}/results", cast_to=httpx.Response).text.splitlines()
    return sum(json.loads(row)["response"]["body"]["usage"]["total_tokens"] for row in rows)
