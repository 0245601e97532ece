"""Every trouble that an alert tells of, caused at a real site: each goes on until `Troubles` is stopped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import httpx

from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.rooms import NOBODY
from tests.support.startable import Startable
from tests.support.system import System

_LONG: Final = "tokens=400&token_seconds=0.05"
TROUBLED_MODELS: Final = {
    "crowded": model(_LONG, concurrency=1),
    "no-room": model(_LONG, concurrency=1, max_queue=0),
    "impatient": model(_LONG, concurrency=1, max_wait_seconds=0.3),
    "slow-start": model("tokens=2&first_token_seconds=1"),
    "broken": model("status=500", max_attempts=1),
    "unserved": model("tokens=1"),
    "paused": model("tokens=1"),
    "half-dead": model("tokens=1") | {"backends": [{"url": NOBODY, "model": "x"}, {"model": "demo?tokens=1"}]},
    "dead": {"max_attempts": 1, "backends": [{"url": NOBODY, "model": "x"}]},
    "flaps": model("tokens=1", max_attempts=1),
    "long": model(_LONG),
}


class Troubles(Startable):
    """Asks what goes wrong, again and again, in a thread of its own."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._over = threading.Event()
        self._client: httpx.AsyncClient
        self._stored = ""

    def start(self) -> Troubles:
        """Begin."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End all of it."""
        self._over.set()
        self._thread.join(20)

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with self._system.async_client(timeout=httpx.Timeout(60), limits=limits) as self._client:
            tasks = [
                *(asyncio.create_task(self._ask(name)) for name in ("no-room", "impatient", "paused")),
                asyncio.create_task(self._store()),
                *(asyncio.create_task(self._again(seconds, what)) for seconds, what in self._loops()),
            ]
            await asyncio.to_thread(self._over.wait)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _loops(self) -> list[tuple[float, Callable[[], Awaitable[Any]]]]:
        quick = ("no-room", "impatient", "broken", "unserved", "half-dead", "dead", "slow-start")
        return [
            *((0.4, lambda name=name: self._ask(name)) for name in quick),
            (0.5, self._crowd),
            (0.1, self._flap),
            (0.2, self._join_late),
        ]

    async def _again(self, seconds: float, what: Callable[[], Awaitable[Any]]) -> None:
        while True:
            with suppress(httpx.HTTPError):
                await what()
            await asyncio.sleep(seconds)

    async def _ask(self, name: str, **more: Any) -> None:
        with suppress(httpx.HTTPError):
            await self._client.post(CHAT, json={**chat_body(name, stream=True), **more})

    async def _crowd(self) -> None:
        self._waiters = [*getattr(self, "_waiters", ()), asyncio.create_task(self._ask("crowded"))]

    async def _flap(self) -> None:
        for behaviour in ("status=503", "status=503", "status=503", ""):
            await self._ask("flaps", demo=behaviour)

    async def _store(self) -> None:
        """Have an answer stored that takes long, so that there is one to join late; again when it is through."""
        body = {**chat_body("long", stream=True), "store": True}
        while True:
            with suppress(httpx.HTTPError):
                async with self._client.stream("POST", CHAT, json=body) as answer:
                    async for line in answer.aiter_lines():
                        if line.startswith("data: {"):
                            self._stored = line.partition('"id":"')[2].partition('"')[0]
            await asyncio.sleep(0.2)

    async def _join_late(self) -> None:
        if self._stored:
            async with self._client.stream("GET", f"{CHAT}/{self._stored}/events") as answer:
                async for _ in answer.aiter_raw():
                    return
