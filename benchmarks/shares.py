"""How groups share slots, with real processes: the `shares` scenario.

Two groups of weights 3 and 1, the first of one token, the other of twenty, in closed loops before a backend of one
fixed time a call. Then the first one stops for a while, so that all slots are lent, and comes back.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from benchmarks.processes import BenchmarkError
from benchmarks.report import Table
from benchmarks.runner import Runner
from shared.tokens import hash_token, new_token

MODEL: Final = "shared"
SLOTS: Final = 8
SERVICE_SECONDS: Final = 0.4
WARM_SECONDS: Final = 5.0
AWAY_SECONDS: Final = 8.0
CLIENTS: Final = 40
"""Of each group."""
WEIGHTS: Final = {"big": 3, "few": 1}
TOKENS: Final = {"big": ("big-1",), "few": tuple(f"few-{number}" for number in range(20))}


@dataclass(frozen=True)
class Run:
    """One call's time on its slot, in seconds of the clients' clock."""

    group: str
    begun: float
    ended: float


def shares(run: Runner) -> dict[str, Any]:
    """Shares over a minute, and how soon lent slots are back."""
    length = 20.0 if run.quick else 60.0
    secrets = {token: new_token() for tokens in TOKENS.values() for token in tokens}
    run.stack.start_gateway(changes=_settings(run.stack.backend_port, secrets))
    target = run.stack.target("aqueduct")
    assert target is not None
    try:
        begin, runs = asyncio.run(_Load(f"http://127.0.0.1:{target.port}", secrets, length).run())
    finally:
        run.stack.start_gateway()
    data = _judged(runs, begin + WARM_SECONDS, length)
    table = Table(
        f"Groups of weights 3 and 1, of 1 and 20 tokens, {SLOTS} slots, {SERVICE_SECONDS:g} s a call", [*data]
    )
    table.add(*data.values())
    table.print()
    return data


def _settings(backend_port: int, secrets: dict[str, str]) -> dict[str, Any]:
    backend = {"url": f"http://127.0.0.1:{backend_port}/v1", "model": f"bench?delay_seconds={SERVICE_SECONDS}"}
    return {
        "models": {MODEL: {"concurrency": SLOTS, "max_queue": 1000, "backends": [backend]}},
        "groups": [{"name": name, "weight": weight} for name, weight in WEIGHTS.items()],
        "tokens": [
            {"name": token, "sha256": hash_token(secrets[token]), "group": group}
            for group, tokens in TOKENS.items()
            for token in tokens
        ],
    }


class _Load:
    """The clients: all the time, but for those of `big`, who are away once."""

    def __init__(self, url: str, secrets: dict[str, str], length: float) -> None:
        self._url = url
        self._secrets = secrets
        self._begin = time.monotonic()
        self._leave = self._begin + WARM_SECONDS + length
        self._runs: list[Run] = []

    async def run(self) -> tuple[float, list[Run]]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            each = {group: CLIENTS // len(tokens) for group, tokens in TOKENS.items()}
            await asyncio.gather(
                *(
                    self._client(session, group, token)
                    for group, tokens in TOKENS.items()
                    for token in tokens
                    for _ in range(each[group])
                )
            )
        return self._begin, self._runs

    async def _client(self, session: aiohttp.ClientSession, group: str, token: str) -> None:
        headers = {"authorization": f"Bearer {self._secrets[token]}"}
        body = {"model": MODEL, "max_tokens": 16, "messages": [{"role": "user", "content": "x" * 64}]}
        ends = self._leave + AWAY_SECONDS + 4
        while (now := time.monotonic()) < ends:
            if group == "big" and self._leave <= now < self._leave + AWAY_SECONDS:
                await asyncio.sleep(self._leave + AWAY_SECONDS - now)
                continue
            async with session.post(f"{self._url}/v1/chat/completions", json=body, headers=headers) as answer:
                await answer.read()
            if answer.status != 200:
                raise BenchmarkError(f"the gateway answered {answer.status}")
            ended = time.monotonic()
            begun = now + int(answer.headers["x-aqueduct-queue-ms"]) / 1000
            self._runs.append(Run(group, begun, ended))


def _judged(runs: list[Run], begin: float, length: float) -> dict[str, Any]:
    end = begin + length
    ends = Counter(one.group for one in runs if begin <= one.begun < end)
    held: dict[str, float] = dict.fromkeys(WEIGHTS, 0.0)
    for one in runs:
        held[one.group] += max(0.0, min(one.ended, end) - max(one.begun, begin))
    back = end + AWAY_SECONDS
    before = Counter(one.group for one in runs if one.begun < back - 0.2 < one.ended)
    after = _soonest(runs, back)
    return {
        "calls big : few": f"{ends['big'] / ends['few']:.3f}",
        "slot-seconds big : few": f"{held['big'] / held['few']:.3f}",
        "slots busy": f"{sum(held.values()) / length:.2f}",
        "lent to few": before["few"],
        "big has 6 slots again after": f"{after / SERVICE_SECONDS:.2f} service times",
    }


def _soonest(runs: list[Run], back: float) -> float:
    """Return after how many seconds the first group held its three quarters."""
    of_big = sorted(one.begun for one in runs if one.group == "big" and one.begun >= back)
    return of_big[SLOTS * 3 // 4 - 1] - back
