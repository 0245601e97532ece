"""Mixed requests with cancels, a worker that is killed and an API process that is: usage must be what the backend said.

`steady` asks an API process that lives, and stays; `leaver` leaves in the midst; `cut` asks the one that is killed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from shared.redis import RedisClient
from shared.usage.counters import Counters
from shared.usage.ledger import Ledger
from shared.usage.report import summed
from tests.chaos.stand import Backend, Gateway
from tests.support.chat import CHAT
from tests.support.models import model
from tests.support.processes import RedisServer

TOKENS = ("steady", "leaver", "cut")
AT_ONCE = 24


@dataclass(slots=True)
class Account:
    """What one token's callers have seen."""

    accepted: int = 0
    completed: int = 0
    prompt: int = 0
    completion: int = 0
    relayed: int = 0
    """Tokens of answers that ended early, as far as they came."""
    broken: int = 0
    wrong: list[str] = field(default_factory=list)


class Callers:
    """Sends requests until there were enough."""

    def __init__(self, gateway: Gateway, count: int) -> None:
        self._gateway = gateway
        self._left = count
        self._count = count
        self.accounts: defaultdict[str, Account] = defaultdict(Account)
        self._chance = random.Random(7)

    @property
    def share(self) -> float:
        """How much of it has been sent."""
        return 1 - self._left / self._count

    async def run(self) -> None:
        """Send all."""
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(self._call_on(session) for _ in range(AT_ONCE)))

    async def _call_on(self, session: aiohttp.ClientSession) -> None:
        while self._left > 0:
            self._left -= 1
            name = self._chance.choices(TOKENS, (6, 3, 2))[0]
            for _ in range(200):
                if await self._one(session, name):
                    break
                await asyncio.sleep(0.2)

    async def _one(self, session: aiohttp.ClientSession, name: str) -> bool:
        """Send one; returns False where it was not accepted."""
        account, stream = self.accounts[name], self._chance.random() < 0.6
        body: dict[str, Any] = {
            "model": "m", "messages": [{"role": "user", "content": "word " * self._chance.randrange(1, 20)}],
            "max_tokens": self._chance.randrange(1, 30), "stream": stream,
        }  # fmt: skip
        if stream:
            body["stream_options"] = {"include_usage": True}
        url = self._gateway.urls[1 if name == "steady" else 0] + CHAT
        leaves = self._chance.uniform(0.01, 0.5) if name == "leaver" else 60.0
        headers = {"authorization": f"Bearer {self._gateway.tokens[name]}"}
        relayed, usage, is_accepted = 0, None, False
        try:
            async with asyncio.timeout(leaves), session.post(url, json=body, headers=headers) as answer:
                if answer.status in (429, 503):
                    return False
                is_accepted = True
                account.accepted += 1
                if not stream:
                    usage = (await answer.json()).get("usage")
                else:
                    async for line in answer.content:
                        relayed_now, told = _read(line)
                        relayed, usage = relayed + relayed_now, told or usage
        except TimeoutError:
            account.accepted += not is_accepted
        except (aiohttp.ClientError, ConnectionError, ValueError):
            if not is_accepted:
                return False
        if usage is None:
            account.broken, account.relayed = account.broken + 1, account.relayed + relayed
        else:
            account.completed += 1
            account.prompt += usage["prompt_tokens"]
            account.completion += usage["completion_tokens"]
        return True


def _read(line: bytes) -> tuple[int, dict[str, int] | None]:
    if not line.startswith(b"data: {"):
        return 0, None
    chunk = orjson.loads(line[6:])
    text = "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", ()))
    return len(text.split()), chunk.get("usage")


async def _harm(gateway: Gateway, callers: Callers) -> None:
    """Kill a worker and the first API process once each, in the midst, and start others."""
    for share, harm in ((0.3, _kill_worker), (0.6, _kill_api)):
        while callers.share < share:  # noqa: ASYNC110 - it is looked at, not told
            await asyncio.sleep(0.02)
        harm(gateway)  # here, as a child process dies with the thread that started it


def _kill_worker(gateway: Gateway) -> None:
    gateway.workers.pop(0).kill()
    gateway.add_worker()


def _kill_api(gateway: Gateway) -> None:
    assert gateway.api is not None
    gateway.api.kill()
    gateway.start_api()


async def _used(url: str) -> tuple[dict[str, Counters], int]:
    client = RedisClient(url, "test")
    await client.open()
    try:
        ledger = Ledger(client, None)
        hour = await ledger.now() // 3600
        used = await ledger.read(hour - 2, hour + 1)
        return {name: counts for (name,), counts in summed(used, ["token"]).items()}, await ledger.uncounted()
    finally:
        await client.close()


def run_usage(folder: Path, count: int) -> list[str]:
    """Send so many; returns what was counted wrong."""
    with RedisServer(folder / "redis") as redis, Backend(folder, "one", record=False) as backend:
        models = {"m": model("tokens=40&token_seconds=0.01", concurrency=16, max_wait_seconds=60, max_queue=1000)}
        gateway = Gateway(
            folder / "system", redis_url=redis.url, backend_url=backend.url, models=models,
            tokens={name: {} for name in TOKENS}, workers=[(), ()],
        )  # fmt: skip
        with gateway:
            callers = Callers(gateway, count)

            async def both() -> None:
                await asyncio.gather(callers.run(), _harm(gateway, callers))

            began = time.monotonic()
            asyncio.run(both())
            seconds = time.monotonic() - began
            with redis.client() as client:
                until = time.monotonic() + 40
                while client.exists("aq2:running:m", "aq2:waits:m") and time.monotonic() < until:
                    time.sleep(0.2)
            used, uncounted = asyncio.run(_used(redis.url))
    print(f"usage: {count} requests in {seconds:.0f} s")
    problems = [f"{uncounted} ends were not counted"] if uncounted else []
    for name, account in callers.accounts.items():
        problems += _judged(name, account, used.get(name, Counters()))
    return problems


def _judged(name: str, account: Account, used: Counters) -> list[str]:
    print(f"  {name}: {account.accepted} accepted, {account.completed} whole; {used}")
    exact = (
        used.prompt_tokens - used.estimated_prompt_tokens,
        used.completion_tokens - used.estimated_completion_tokens,
    )
    seen = (account.prompt, account.completion)
    problems = []
    if name == "steady":
        if used.requests != account.accepted:
            problems.append(f"{name}: {used.requests} counted, {account.accepted} accepted")
        if exact != seen:
            problems.append(f"{name}: {exact} tokens counted for whole answers, where the backend said {seen}")
    elif exact < seen:
        problems.append(f"{name}: {exact} counted for whole answers, fewer than the {seen} that came")
    if used.completion_tokens < account.completion + account.relayed:
        problems.append(f"{name}: {used.completion_tokens} counted, though {account.relayed} more were relayed")
    if name == "leaver" and account.relayed and not used.estimated:  # of a dead API process a job may end whole
        problems.append(f"{name}: nothing is flagged as estimated, though answers were cut")
    return problems
