"""Sixty callers at once, streams and plain requests mixed, each as patient as an SDK: `Load` keeps every answer.

A caller tries again only what was not accepted: a refused connection, or a 503 or 429 from before the queue.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import aiohttp
import orjson

from tests.chaos.answers import Answer, expected_content
from tests.support.chat import CHAT, chat_body

TOKENS_OF = {"talk": 24, "quick": 8}
"""Tokens of each model's answers; `tests/chaos/stand.py` makes the models."""
NEWCOMER_SECONDS = 0.5
LARGE_EVERY = 20
ANSWER_SECONDS = 100
"""Nothing accepted may take longer; what does is lost."""
REFUSED_CODES = frozenset({"server_is_overloaded", "no_worker", "draining", "queue_full", "rate_limit_exceeded"})
REFUSAL_SECONDS = 2.5
"""A refusal comes sooner; the same code later is the end of a job that was accepted."""


def request_body(answer: Answer, padding_bytes: int = 0) -> bytes:
    """Return the request that the answer is for, with so much in front of what counts."""
    body = chat_body(answer.model, answer.marker, stream=answer.stream)
    if padding_bytes:
        body["messages"].insert(0, {"role": "system", "content": "x" * padding_bytes})
    return orjson.dumps(body)


def is_refusal(status: int, raw: bytes) -> bool:
    """Whether this body may have been sent instead of taking the request in."""
    return status in (429, 503) and orjson.loads(raw)["error"]["code"] in REFUSED_CODES


async def read_answer(
    answer: Answer, response: aiohttp.ClientResponse, was_refused: Callable[[int, bytes], bool]
) -> bool:
    """Give the answer all that comes for it; returns False, and gives it nothing, when the request was refused."""
    if response.status == 200 and answer.stream:
        async for data in response.content.iter_any():
            answer.feed(data)
        answer.end_stream()
        return True
    raw = await response.read()
    if was_refused(response.status, raw):
        return False
    answer.take_body(response.status, raw)
    return True


class Load:
    """Callers in one event loop against several API processes, which each request chooses by chance."""

    def __init__(self, urls: Sequence[str], token: str, *, callers: int = 60, seed: int = 1) -> None:
        self._urls = list(urls)
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self._callers = callers
        self._chance = random.Random(seed)
        self._sent = 0
        self.answers: list[Answer] = []
        self.open = 0
        self.large_bytes = 0
        """Every twentieth request brings so much."""
        self.stopping = False
        self.refused = 0
        self.slowest_refusal_seconds = 0.0
        self.unsure: list[Answer] = []
        """Requests whose connection ended before any answer: accepted only if a backend saw them."""

    @property
    def accepted(self) -> int:
        """How many requests were accepted and have ended."""
        return len(self.answers)

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Run in a thread of its own; at the end wait until what is under way has come to its end.

        The harness stays on the main thread, as a child process dies with the thread that started it.
        """
        failures: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(self.run())
            except BaseException as error:
                failures.append(error)
                raise

        thread = threading.Thread(target=run, daemon=True, name="load")
        thread.start()
        try:
            yield
        finally:
            self.stopping = True
            thread.join(ANSWER_SECONDS + 20)
        assert not failures, f"the load failed: {failures[0]!r}"

    async def run(self) -> None:
        """Send until `stopping`, then let what is under way come to its end."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers) as session:
            callers = [self._call_on(session) for _ in range(self._callers)]
            await asyncio.gather(self._newcomers(session), *callers)

    async def _newcomers(self, session: aiohttp.ClientSession) -> None:
        """Send some whatever the others wait for: who comes while a part is away must be refused soon, or served."""
        sent: list[asyncio.Task[None]] = []
        while not self.stopping:
            self._sent += 1
            one = self._one(session, self._sent, "quick", stream=self._chance.random() < 0.65)
            sent.append(asyncio.create_task(one))
            await asyncio.sleep(NEWCOMER_SECONDS)
        await asyncio.gather(*sent)

    async def _call_on(self, session: aiohttp.ClientSession) -> None:
        while not self.stopping:
            self._sent += 1
            model = "talk" if self._chance.random() < 0.6 else "quick"
            await self._one(session, self._sent, model, stream=self._chance.random() < 0.65)

    async def _one(self, session: aiohttp.ClientSession, number: int, model: str, *, stream: bool) -> None:
        padding_bytes = self.large_bytes if number % LARGE_EVERY == 0 else 0
        for attempt in range(1, 1000):
            marker = f"r{number}a{attempt}"
            answer = Answer(
                marker=marker, model=model, stream=stream, sent_at=time.monotonic(),
                expected=expected_content(marker, TOKENS_OF[model]),
            )  # fmt: skip
            self.open += 1
            try:
                if await self._attempt(session, answer, padding_bytes):
                    self.answers.append(answer)
                    return
            finally:
                self.open -= 1
            if self.stopping:
                return
            await asyncio.sleep(min(1.0, 0.2 * attempt) * self._chance.uniform(0.5, 1.5))

    async def _attempt(self, session: aiohttp.ClientSession, answer: Answer, padding_bytes: int) -> bool:
        """Send once; returns whether it was accepted. The answer has ended then."""
        url = f"{self._chance.choice(self._urls)}{CHAT}"
        status = 0
        body = request_body(answer, padding_bytes)
        try:
            async with asyncio.timeout(ANSWER_SECONDS), session.post(url, data=body) as response:
                status = response.status
                return await read_answer(answer, response, partial(self._was_refused, answer))
        except TimeoutError:
            answer.end("lost", f"no end after {ANSWER_SECONDS} s; so far {answer.content[-20:]!r}")
        except aiohttp.ClientConnectorError:
            return False
        except (aiohttp.ClientError, ConnectionError) as error:
            answer.end("cut", type(error).__name__)
            if not status:
                self.unsure.append(answer)
                return False
        return True

    def _was_refused(self, answer: Answer, status: int, raw: bytes) -> bool:
        if not is_refusal(status, raw):
            return False
        seconds = time.monotonic() - answer.sent_at
        if seconds > REFUSAL_SECONDS:
            return False
        self.refused += 1
        self.slowest_refusal_seconds = max(self.slowest_refusal_seconds, seconds)
        return True

    def settle_unsure(self, calls: Mapping[str, int]) -> None:
        """Add the cut connections whose request had reached a backend: those had been accepted."""
        self.answers += [answer for answer in self.unsure if answer.marker in calls]
        self.unsure.clear()
