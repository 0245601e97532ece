"""`concurrency: auto` against the best fixed number, on backends whose capacity has a knee: the `auto` scenario.

Two worker processes and a backend of `benchmarks/curve_backend.py`; more clients than it can serve, each asking again
as soon as it is answered. First fixed numbers around the knee, then `auto` from a cold start, measured from 60 s on.
The last backend's knee moves twice; each time `auto` is measured from 60 s after it on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.processes import Child
from benchmarks.report import Table
from benchmarks.runner import Runner

COLD_SECONDS: Final = 60.0
WARM_SECONDS: Final = 6.0
SHARES: Final = (0.75, 1.0, 1.25, 1.5)
"""Of the knee: the fixed numbers that are tried."""
FEW: Final = 2
"""Clients for each request that the backend can take at full speed, and some more."""


@dataclass(frozen=True, slots=True)
class _Plan:
    name: str
    knees: tuple[int, ...]
    """One after the other."""
    falls: float = 0.0


PLANS: Final = (
    _Plan("knee 2", (2,)),
    _Plan("knee 8, falling", (8,), falls=0.05),
    _Plan("knee 32", (32,)),
    _Plan("knee 128", (128,)),
    _Plan("moves", (32, 96, 16)),
)


def auto(run: Runner) -> dict[str, Any]:
    """Throughput and time to first token with `concurrency: auto`, beside the best fixed number."""
    data: dict[str, Any] = {}
    table = Table(
        "`concurrency: auto`, 60 s after a cold start or a move, and the best fixed number",
        ["backend", "best", "tokens/s", "first ms", "auto", "tokens/s", "part", "first ms", "times"],
    )
    for plan in PLANS[2:3] if run.quick else PLANS:
        for row in _backend(run, plan, 10.0 if run.quick else 20.0):
            data[row["name"]] = row
            best, found = row["best"], row["auto"]
            table.add(
                row["name"], best["limit"], best["rate"], best["first_ms"], found["limit"], found["rate"],
                found["rate"] / best["rate"], found["first_ms"], found["first_ms"] / best["first_ms"],
            )  # fmt: skip
    table.print()
    run.stack.start_gateway()
    return data


def _backend(run: Runner, plan: _Plan, seconds: float) -> list[dict[str, Any]]:
    settings = json.dumps({"knee": plan.knees[0], "falls": plan.falls})
    backend = Child.python("benchmarks.curve_backend", settings, log_file=run.stack.folder / "curve.log", talks=True)
    try:
        url = f"http://127.0.0.1:{backend.read_line()['port']}/v1"
        room = {"max_queue": 10_000, "max_wait_seconds": 600, "batch_reserve": 0, "backends": [{"url": url}]}
        fixed = sorted({max(1, round(share * knee)) for share in SHARES for knee in plan.knees})
        models = {f"fixed-{number}": {"concurrency": number, **room} for number in fixed}
        run.stack.start_gateway(
            worker_models=((), ()), changes={"models": {**models, "auto": {"concurrency": "auto", **room}}}
        )
        return asyncio.run(_measure(run, plan, backend, seconds))
    finally:
        backend.stop()


async def _measure(run: Runner, plan: _Plan, backend: Child, seconds: float) -> list[dict[str, Any]]:
    clients = FEW * max(plan.knees) + 8
    rows: list[dict[str, Any]] = []
    for knee in plan.knees:
        backend.write_line({"knee": knee})
        tried = []
        for number in sorted({max(1, round(share * knee)) for share in SHARES}):
            async with _Crowd(run, f"fixed-{number}", clients):
                await asyncio.sleep(WARM_SECONDS)
                tried.append({"limit": number, **await _look(backend, seconds / 2)})
        most = max(row["rate"] for row in tried)
        best = next(row for row in tried if row["rate"] >= 0.985 * most)
        rows.append({"name": plan.name if len(plan.knees) == 1 else f"{plan.name}: {knee}", "best": best})
        print(f"{plan.name}, {knee}: {[(row['limit'], round(row['rate']), round(row['first_ms'])) for row in tried]}")
    backend.write_line({"knee": plan.knees[0]})
    async with _Crowd(run, "auto", clients):
        for row, knee in zip(rows, plan.knees, strict=True):
            backend.write_line({"knee": knee})
            limits = await _limits(run, COLD_SECONDS)
            found = asyncio.create_task(_limits(run, seconds))
            looked = await _look(backend, seconds)
            held = await found
            row["auto"] = {**looked, "target": "aqueduct", "limit": sum(held) / len(held), "limits": limits + held}
            print(f"{row['name']}: {' '.join(map(str, limits + held))}", flush=True)
    return rows


async def _limits(run: Runner, seconds: float) -> list[int]:
    """Return the number that holds, each second."""
    limits, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        limits.append(int(run.stack.redis.hget("aq2:capacity:auto", "places") or 0))
        await asyncio.sleep(1)
    return limits


async def _look(backend: Child, seconds: float) -> dict[str, float]:
    """Return what the backend did within some time."""

    def took() -> dict[str, Any]:
        backend.write_line({"take": True})
        return backend.read_line()

    await asyncio.to_thread(took)
    began = time.monotonic()
    await asyncio.sleep(seconds)
    told = await asyncio.to_thread(took)
    passed = time.monotonic() - began
    return {
        "rate": told["tokens"] / passed,
        "first_ms": 1000 * told["first_seconds"] / max(1, told["firsts"]),
        "in_flight": told["slot_seconds"] / passed,
    }


class _Crowd:
    """Clients that each ask again as soon as they are answered; a context manager."""

    def __init__(self, run: Runner, model: str, clients: int) -> None:
        target = run.stack.target("aqueduct")
        assert target is not None
        self._port = target.port
        body = json.dumps({"model": model, "stream": True, "messages": [{"role": "user", "content": "x"}]})
        self._request = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {target.token}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        ).encode()
        self._clients = clients
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> None:
        self._tasks = [asyncio.create_task(self._ask_on()) for _ in range(self._clients)]

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        for one in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(one, Exception):
                raise one
        await asyncio.sleep(1)  # what was cut leaves the backend

    async def _ask_on(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            while True:
                writer.write(self._request)
                seen = b""
                while b"data: [DONE]" not in seen or not seen.endswith(b"0\r\n\r\n"):
                    part = await reader.read(65_536)
                    if not part or (not seen and b" 200 " not in part[:20]):
                        raise ConnectionError(f"an answer failed: {(seen + part)[:200]!r}")
                    seen = seen[-100:] + part
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
