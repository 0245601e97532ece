"""Whether what waiting callers are told is true: the `standing` scenario.

A steady run: tenants of different lanes, weights and numbers of clients in closed loops before a backend of one fixed
time a call, of which few run at once. Each answer bears the position and wait that its caller was told when it began
to wait, and how long it did wait. Who went before it of those that waited then is counted from all answers together.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from benchmarks.processes import BenchmarkError
from benchmarks.report import Table
from benchmarks.runner import Runner
from shared.tokens import hash_token, new_token

MODEL: Final = "steady"
SLOTS: Final = 4
SERVICE_SECONDS: Final = 0.5
TOKENS: Final = 16
NEAR: Final = 0.2
"""What counts as right: this much off, or one place, or `NEAR_SECONDS`."""
NEAR_SECONDS: Final = 0.05
"""A tenth of a call: nobody who waits for less than that waits."""


@dataclass(frozen=True)
class Tenant:
    """A token, and how many clients use it at once."""

    name: str
    clients: int
    lane: str = "default"
    weight: float = 1.0


TENANTS: Final = (
    Tenant("urgent", 3, lane="priority"),
    Tenant("light", 8),
    Tenant("heavy", 16, weight=2),
    Tenant("patient", 4, lane="flex"),
)


@dataclass(frozen=True)
class Answer:
    """What one held caller was told, and what came of it; seconds of the clients' clock."""

    tenant: str
    admitted: float
    begun: float
    position: int | None
    wait_seconds: float | None

    @property
    def waited(self) -> float:
        return self.begun - self.admitted


def standing(run: Runner) -> dict[str, Any]:
    """Positions and estimated waits of a steady run, against what came of them."""
    warm, length = (15.0, 20.0) if run.quick else (40.0, 80.0)
    secrets = {tenant.name: new_token() for tenant in TENANTS}
    run.stack.start_gateway(changes=_settings(run.stack.backend_port, secrets))
    target = run.stack.target("aqueduct")
    assert target is not None
    try:
        begin, answers = asyncio.run(_load(f"http://127.0.0.1:{target.port}", secrets, warm + length))
    finally:
        run.stack.start_gateway()
    table = Table(
        f"What {sum(one.clients for one in TENANTS)} clients were told of {SLOTS} slots, {SERVICE_SECONDS:g} s a call",
        ["tenant", "held", "median wait ms", "wait right", "median error", "position right"],
    )
    data: dict[str, Any] = {}
    ends = begin + warm + length
    held = [one for one in answers if one.admitted >= begin + warm and one.begun <= ends and one.position is not None]
    for name in (*secrets, "all"):
        data[name] = _judged([one for one in held if name in (one.tenant, "all")], answers)
        table.add(name, *data[name].values())
    table.print()
    return data


def _settings(backend_port: int, secrets: dict[str, str]) -> dict[str, Any]:
    backend = {"url": f"http://127.0.0.1:{backend_port}/v1", "model": f"bench?delay_seconds={SERVICE_SECONDS}"}
    return {
        "models": {MODEL: {"concurrency": SLOTS, "max_queue": 1000, "backends": [backend]}},
        "tokens": [
            {"name": one.name, "sha256": hash_token(secrets[one.name]), "lane": one.lane, "weight": one.weight}
            for one in TENANTS
        ],
    }


async def _load(url: str, secrets: dict[str, str], seconds: float) -> tuple[float, list[Answer]]:
    begin = time.monotonic()
    answers: list[Answer] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client(tenant: Tenant) -> None:
            headers = {"authorization": f"Bearer {secrets[tenant.name]}"}
            body = {"model": MODEL, "max_tokens": TOKENS, "messages": [{"role": "user", "content": "x" * 64}]}
            while time.monotonic() < begin + seconds:
                sent = time.monotonic()
                async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as answer:
                    await answer.read()
                if answer.status != 200:
                    raise BenchmarkError(f"the gateway answered {answer.status}")
                answers.append(_answer(tenant.name, sent, answer.headers))

        await asyncio.gather(*(client(tenant) for tenant in TENANTS for _ in range(tenant.clients)))
    return begin, answers


def _answer(tenant: str, sent: float, headers: Any) -> Answer:
    position, wait_ms = headers.get("x-aqueduct-queue-position"), headers.get("x-aqueduct-estimated-wait-ms")
    return Answer(
        tenant=tenant,
        admitted=sent,
        begun=sent + int(headers["x-aqueduct-queue-ms"]) / 1000,
        position=None if position is None else int(position),
        wait_seconds=None if wait_ms is None else int(wait_ms) / 1000,
    )


def _judged(held: list[Answer], answers: list[Answer]) -> dict[str, Any]:
    if not held:
        raise BenchmarkError("nobody had to wait")
    off = sorted((one.wait_seconds or 0.0) / max(one.waited, 0.001) - 1 for one in held)
    right = sum(abs((one.wait_seconds or 0.0) - one.waited) <= max(NEAR * one.waited, NEAR_SECONDS) for one in held)
    places = 0
    for one in held:
        before = sum(other.admitted < one.admitted < other.begun < one.begun for other in answers if other is not one)
        places += abs((one.position or 0) - before) <= max(1, NEAR * before)
    return {
        "held": len(held),
        "wait_ms": sorted(one.waited for one in held)[len(held) // 2] * 1000,
        "wait_right": f"{right / len(held):.0%}",
        "error": f"{off[len(off) // 2]:+.0%}",
        "position_right": f"{places / len(held):.0%}",
    }
