"""A backend that is away for long under many requests: no error, one wake call, answers at once when it is there.

python -m tests.chaos asleep --requests 500 --seconds 90
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.chat import CHAT, chat_body
from tests.support.models import model
from tests.support.processes import RedisServer, free_port
from tests.support.receiver import Receiver
from tests.support.system import DemoBackend, System

CONCURRENCY: Final = 16
TOKENS: Final = 8
FIRST_SECONDS: Final = 1.0
"""From the backend's being ready to the first answer."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of one request."""

    problem: str
    first_at: float
    """When the first token, or the whole answer, was here."""
    was_told: bool
    """A stream's reader was told that the model is being started."""


def run_asleep(folder: Path, requests: int, away_seconds: float) -> list[str]:
    """Run it and print what was seen; returns what was wrong."""
    port = free_port()
    with RedisServer(folder / "redis") as redis, Receiver() as hooks:
        settings: dict[str, Any] = {
            "when_absent": "hold",
            "concurrency": CONCURRENCY,
            "max_wait_seconds": away_seconds + 120,
            "wake": {"url": hooks.url, "cooldown_seconds": max(120.0, away_seconds + 30)},
        }
        backend = DemoBackend(folder, port)
        with System(
            folder / "system",
            redis_url=redis.url,
            backend_url=f"http://127.0.0.1:{port}/v1",
            models={"sleepy": model(f"tokens={TOKENS}&token_seconds=0.05", **settings)},
            workers=[(), ()],
        ) as system:
            try:
                answers, ready_at = _load(system, backend, requests, away_seconds)
                state = backend.state()
            finally:
                backend.stop()
        calls = len(hooks.deliveries)
    problems = [answer.problem for answer in answers if answer.problem]
    first = min(answer.first_at for answer in answers) - ready_at
    last = max(answer.first_at for answer in answers) - ready_at
    told = sum(answer.was_told for answer in answers)
    print(
        f"{requests} requests, backend away for {away_seconds:g} s: {len(problems)} errors, {calls} wake calls; then "
        f"the first answer in {first:.2f} s, the last in {last:.1f} s; {state['max_open_requests']} of "
        f"{CONCURRENCY} in flight at most, {state['total_requests']} calls; {told} streams heard that it starts"
    )
    if calls != 1:
        problems.append(f"{calls} wake calls")
    if first > FIRST_SECONDS:
        problems.append(f"the first answer {first:.2f} s after the backend was ready")
    if state["max_open_requests"] > CONCURRENCY:
        problems.append(f"{state['max_open_requests']} in flight")
    if state["total_requests"] != requests:
        problems.append(f"{state['total_requests']} calls for {requests} requests")
    return problems


def _load(system: System, backend: DemoBackend, requests: int, away_seconds: float) -> tuple[list[Answered], float]:
    with ThreadPoolExecutor(1) as other:  # the backend's process dies with the thread that starts it
        asking = other.submit(lambda: asyncio.run(_ask_all(system, requests, away_seconds)))
        time.sleep(away_seconds)
        backend.start()
        ready_at = time.monotonic()
        return asking.result(), ready_at


async def _ask_all(system: System, requests: int, away_seconds: float) -> list[Answered]:
    limits = httpx.Limits(max_connections=None)
    async with system.async_client(timeout=away_seconds + 180, limits=limits) as client:
        return await asyncio.gather(*(_ask(client, number) for number in range(requests)))


async def _ask(client: httpx.AsyncClient, number: int) -> Answered:
    is_stream = number % 2 == 0
    first_at, text, status = 0.0, "", 0
    try:
        body = chat_body("sleepy", f"c{number}", stream=is_stream)
        async with client.stream("POST", CHAT, json=body) as answer:
            status = answer.status_code
            async for part in answer.aiter_text():
                text += part
                if not first_at and '"content"' in part:
                    first_at = time.monotonic()
    except httpx.HTTPError as error:
        return Answered(f"c{number}: {error!r}", time.monotonic(), False)
    whole = "data: [DONE]" in text and '"error"' not in text if is_stream else '"error":' not in text
    problem = "" if status == 200 and whole else f"c{number}: {status} {text[-200:]}"
    return Answered(problem, first_at or time.monotonic(), "starting" in text)
