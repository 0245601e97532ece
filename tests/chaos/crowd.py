"""Many small requests over kept connections, some left by their caller at a random moment; every byte is checked."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from tests.chaos.answers import Answer, expected_content
from tests.chaos.load import ANSWER_SECONDS, is_refusal, read_answer, request_body
from tests.chaos.stand import Backend
from tests.support.chat import CHAT
from tests.support.processes import RedisServer
from tests.support.system import System

TOKENS = 6
MODEL = "small"


class Site:
    """One API process, one worker, one backend and one Redis. Start it with `with`."""

    def __init__(self, folder: Path, *, token_seconds: float, concurrency: int) -> None:
        self.redis = RedisServer(folder / "redis")
        self.backend = Backend(folder, "one", record=False)
        self._folder = folder
        name = f"demo?prefix=1&tokens={TOKENS}&token_seconds={token_seconds}"
        self._models = {MODEL: {"concurrency": concurrency, "backends": [{"model": name}]}}
        self.system: System

    def __enter__(self) -> Site:
        """Start all."""
        self.redis.start()
        self.backend.start()
        self.system = System(
            self._folder / "system", redis_url=self.redis.url, backend_url=self.backend.url, models=self._models
        )
        self.system.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all."""
        self.system.stop()
        self.backend.stop()
        self.redis.stop()


class Crowd:
    """Callers that send until `stopping`; the counts grow as answers end."""

    def __init__(
        self, site: Site, *, callers: int, leaving_share: float, leave_within_seconds: float, seed: int = 1
    ) -> None:
        self._url = f"{site.system.base_url}{CHAT}"
        self._token = site.system.token
        self._callers = callers
        self._leaving_share = leaving_share
        self._leave_within_seconds = leave_within_seconds
        self._chance = random.Random(seed)
        self.stopping = False
        self.sent = 0
        self.counts: Counter[str] = Counter()
        """Answers by verdict, `refused` too."""
        self.wrong: list[str] = []
        """Answers that were altered, doubled, lost or failed."""

    @property
    def ended(self) -> int:
        """How many requests have ended, refused ones apart."""
        return sum(self.counts.values()) - self.counts["refused"]

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Run in a thread of its own; at the end wait for what is under way."""
        thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True, name="crowd")
        thread.start()
        try:
            yield
        finally:
            self.stopping = True
            thread.join(ANSWER_SECONDS + 20)

    async def _run(self) -> None:
        headers = {"authorization": f"Bearer {self._token}", "content-type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=5)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
            await asyncio.gather(*(self._call_on(session) for _ in range(self._callers)))

    async def _call_on(self, session: aiohttp.ClientSession) -> None:
        while not self.stopping:
            self.sent += 1
            marker = f"m{self.sent}"
            answer = Answer(
                marker=marker, model=MODEL, stream=self._chance.random() < 0.5, sent_at=time.monotonic(),
                expected=expected_content(marker, TOKENS),
            )  # fmt: skip
            leaves = self._chance.random() < self._leaving_share
            patience = self._chance.uniform(0, self._leave_within_seconds) if leaves else None
            try:
                async with asyncio.timeout(patience):
                    was_accepted = await self._ask(session, answer)
            except TimeoutError:
                answer.end("cancelled" if leaves else "lost", "no end in time")
                was_accepted = True
            except (aiohttp.ClientError, ConnectionError) as error:
                answer.end("lost", repr(error))
                was_accepted = True
            if was_accepted:
                self._count(answer)
            else:
                self.counts["refused"] += 1
                await asyncio.sleep(0.2)

    async def _ask(self, session: aiohttp.ClientSession, answer: Answer) -> bool:
        async with session.post(self._url, data=request_body(answer)) as response:
            return await read_answer(answer, response, is_refusal)

    def _count(self, answer: Answer) -> None:
        self.counts[answer.verdict] += 1
        if answer.is_altered or answer.is_doubled or answer.verdict not in ("completed", "cancelled"):
            what = f"{answer.verdict} {answer.code} {answer.detail}".strip()
            self.wrong.append(f"{answer.marker} ({what}): {answer.content!r}")
