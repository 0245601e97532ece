"""Limits of tokens as callers meet them: over real processes, several API processes at once among them."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from shared import keys
from tests.support.calls import Call, wait_for_content
from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import Process, RedisServer, free_port
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

log = logging.getLogger(__name__)

MODELS = {
    "quick": {**model("tokens=2&prefix=1"), "concurrency": 64},
    "slow": {**model("tokens=40&token_seconds=0.1&prefix=1"), "concurrency": 64},
}
TOKENS = {
    "day": {"tokens_per_day": 1},
    "slots": {"slot_seconds_per_month": 1},
    "minute": {"tokens_per_minute": 50},
    "running": {"concurrent_jobs": 2},
    "lowered": {"concurrent_jobs": 3},
}


@pytest.fixture(scope="module")
def system(
    tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer, demo_backend: DemoBackend
) -> Iterator[System]:
    with System(
        tmp_path_factory.mktemp("limits"), redis_url=module_redis.url, backend_url=demo_backend.url, models=MODELS,
        tokens=TOKENS,
    ) as running:  # fmt: skip
        yield running


def ask(system: System, name: str, token: str, **more: Any) -> httpx.Response:
    with system.client(system.tokens[token]) as client:
        return client.post(CHAT, json={**chat_body(name), **more})


def test_a_spent_budget_is_told_with_its_end_and_not_to_be_tried_again(system: System) -> None:
    assert ask(system, "quick", "day").status_code == 200
    answer = ask(system, "quick", "day")
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["code"]) == (
        429,
        "insufficient_quota",
        "token_spend_limit_exceeded",
    )
    assert "of its 1 tokens per day" in error["message"]
    assert "begins anew at" in error["message"]
    assert answer.headers.get("x-should-retry") == "false" or "retry-after" in answer.headers


def test_slot_seconds_of_a_month_are_what_answers_took(system: System) -> None:
    assert ask(system, "slow", "slots").status_code == 200
    answer = ask(system, "quick", "slots")
    assert answer.json()["error"]["code"] == "token_spend_limit_exceeded"
    assert "slot seconds per month" in answer.json()["error"]["message"]


def test_a_request_that_no_minute_holds_is_told_to_be_smaller(system: System) -> None:
    answer = ask(system, "quick", "minute", max_tokens=500)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert answer.headers["x-should-retry"] == "false"
    answer = ask(system, "quick", "minute", max_tokens=20)
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-limit-tokens"] == "50"


def test_a_limit_lowered_by_a_reload_holds_at_once_and_harms_nothing_that_runs(system: System) -> None:
    token = system.tokens["lowered"]
    calls = [Call(system, "slow", f"call {number}", stream=True, token=token) for number in range(3)]
    wait_for_content(*calls)
    system.rewrite(tokens={"lowered": {"concurrent_jobs": 1}})
    process = system.command("reload").start()
    assert process.wait(30) == 0, process.log()
    error = ask(system, "quick", "lowered").json()["error"]
    assert "may have 1 requests in progress" in error["message"]
    for call in calls:
        assert call.wait(30).status == 200


def test_a_token_that_is_revoked_with_a_job_in_flight_is_charged_and_leaves_no_place_taken(
    system: System, module_redis: RedisServer
) -> None:
    made = system.command("token", "create", "gone", "--concurrent-jobs", "2", "--tokens-per-day", "900", name="made")
    assert made.start().wait(30) == 0
    token = next(line for line in made.log().splitlines() if line.startswith("sk-"))
    call = Call(system, "slow", "of the revoked", stream=True, token=token)
    wait_for_content(call)
    assert system.command("token", "revoke", "gone").start().wait(30) == 0
    assert call.wait(30).status == 200
    with module_redis.client() as client:
        wait_until(lambda: not client.exists(keys.PREFIXES["token_jobs"] + "gone"), 10, "its place to be free")
        assert client.exists(keys.PREFIXES["spent"] + "gone")


# Crowds ---------------------------------------------------------------------------------------------------------------


@dataclass
class Crowd:
    """What clients in closed loops met that come back as they are told."""

    urls: Sequence[str]
    token: str
    body: dict[str, Any]
    own_bodies: bool = True
    let_in: list[tuple[float, int]] = field(default_factory=list)
    """When each request that was let in began, by its id, and its tokens."""
    returned: int = 0
    kept: int = 0
    most_open: int = 0
    other: list[str] = field(default_factory=list)
    _open: int = 0

    async def run(self, clients: int, seconds: float) -> None:
        """Let clients ask for so long."""
        until = time.monotonic() + seconds
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            connector=connector, headers={"authorization": f"Bearer {self.token}"}
        ) as http:
            await asyncio.gather(*(self._client(http, number, until) for number in range(clients)))

    async def _client(self, http: aiohttp.ClientSession, number: int, until: float) -> None:
        url, is_return, made = self.urls[number % len(self.urls)] + CHAT, False, 0
        while time.monotonic() < until:
            body = dict(self.body)
            if self.own_bodies:
                body["user"] = f"{number}.{made}"
            async with http.post(url, json=body) as answer:
                told = json.loads(await answer.read())
            self.returned += is_return
            if answer.status == 200:
                began = int(answer.headers["x-request-id"].removeprefix("req_")[:14], 16) / 1e6
                self.let_in.append((began, told["usage"]["total_tokens"]))
                self.kept += is_return
                is_return, made = False, made + 1
            elif answer.status == 429:
                is_return = True
                await asyncio.sleep(int(answer.headers["retry-after-ms"]) / 1000)
            else:
                self.other.append(f"{answer.status} {told}")
                await asyncio.sleep(1)

    def worst_minute(self, seconds: float = 60) -> int:
        """Return the most tokens (or, with 1 each, requests) that any minute holds."""
        return worst_minute(sorted(self.let_in), seconds)


def worst_minute(times: Sequence[tuple[float, int]], seconds: float = 60) -> int:
    """Return the most that any minute holds, of moments and amounts."""
    at, most, now = 0, 0, 0
    for moment, amount in times:
        now += amount
        while times[at][0] <= moment - seconds:
            now -= times[at][1]
            at += 1
        most = max(most, now)
    return most


@pytest.fixture
def apis(tmp_path: Path, own_redis: RedisServer, demo_backend: DemoBackend) -> Iterator[tuple[System, list[str]]]:
    """A system with three API processes; their addresses."""
    tokens = {
        "requests": {"requests_per_minute": 600},
        "tokens": {"tokens_per_minute": 12_000},
        "jobs": {"concurrent_jobs": 10},
    }
    further = list[Process]()
    with System(
        tmp_path, redis_url=own_redis.url, backend_url=demo_backend.url, models=MODELS, tokens=tokens,
        settings={"log_level": "warning"},
    ) as system:  # fmt: skip
        urls = [system.base_url]
        for number in (2, 3):
            port = free_port()
            further.append(system.command("api", "--port", str(port), name=f"api-{number}").start())
            urls.append(f"http://127.0.0.1:{port}")
        for url in urls:
            wait_until(lambda url=url: _is_ready(url), 30, "an API process")  # type: ignore[misc]
        yield system, urls
        for process in further:
            process.stop()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.long
@pytest.mark.timeout(400)
def test_three_processes_let_in_600_requests_in_the_worst_minute_and_570_in_each(
    apis: tuple[System, list[str]],
) -> None:
    system, urls = apis
    crowd = Crowd(urls, system.tokens["requests"], chat_body("quick"))
    asyncio.run(crowd.run(200, 190))
    begins = sorted(at for at, _ in crowd.let_in)
    worst = worst_minute([(at, 1) for at in begins])
    per_minute = [sum(begins[0] + 60 * n <= at < begins[0] + 60 * (n + 1) for at in begins) for n in range(3)]
    log.info("worst %d, minutes %s, kept %d of %d", worst, per_minute, crowd.kept, crowd.returned)
    assert not crowd.other
    assert worst <= 600
    assert min(per_minute) >= 570
    assert crowd.kept / crowd.returned >= 0.9


@pytest.mark.long
@pytest.mark.timeout(400)
def test_three_processes_let_in_as_many_tokens_as_a_minute_may_have(apis: tuple[System, list[str]]) -> None:
    system, urls = apis
    crowd = Crowd(urls, system.tokens["tokens"], {**chat_body("quick"), "max_tokens": 20})
    asyncio.run(crowd.run(200, 190))
    times = sorted(crowd.let_in)
    worst = worst_minute(times)
    begin = times[0][0]
    minutes = [sum(amount for at, amount in times if n * 61 <= at - begin < (n + 1) * 61) for n in range(3)]
    log.info("worst %d, each 61 s %s, kept %d of %d", worst, minutes, crowd.kept, crowd.returned)
    assert not crowd.other
    assert worst <= 12_000 * 1.02
    assert min(minutes) >= 12_000 * 0.98
    assert crowd.kept / crowd.returned >= 0.9


@pytest.mark.long
@pytest.mark.timeout(400)
def test_three_processes_run_as_many_jobs_of_a_token_as_they_may(
    apis: tuple[System, list[str]], demo_backend: DemoBackend
) -> None:
    system, urls = apis
    demo_backend.clear()
    most = 0

    async def watch(crowd: Crowd) -> None:
        nonlocal most
        running = asyncio.create_task(crowd.run(60, 20))
        async with aiohttp.ClientSession() as http:
            while not running.done():
                async with http.get(f"{demo_backend.root}/debug/state") as answer:
                    most = max(most, (await answer.json())["open_requests"])
                await asyncio.sleep(0.02)
        await running

    crowd = Crowd(urls, system.tokens["jobs"], {**chat_body("slow"), "max_tokens": 10})
    asyncio.run(watch(crowd))
    log.info("most %d, let in %d", most, len(crowd.let_in))
    assert not crowd.other
    assert most == 10
