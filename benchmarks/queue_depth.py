"""What each step of a job costs inside Redis, with few and with very many jobs waiting: the `queue` scenario.

Speaks to Redis as the API and a worker do, through `shared.room`, with no API and no worker running. The time is
Redis's own clock of its script calls, so that the client's cost does not hide a slow script.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from benchmarks.report import Table
from benchmarks.runner import Runner
from shared import events
from shared.catalogue import Catalogue
from shared.config import load_settings
from shared.events import Completed
from shared.jobs import End, JobSpec, TakenJob, new_id
from shared.redis import RedisClient
from shared.redis.bulk import Bulk
from shared.room.admission import Admission, Admissions
from shared.room.leases import Leases, append_parts
from shared.room.scripts import AppendRow
from shared.room.upkeep import Upkeep
from shared.settings import Settings

OWNER = "benchmark-owner"
WORKER = "benchmark-worker"
SHALLOW, DEEP = "bench", "bench-20"
CALLS = 200


def queue(run: Runner) -> dict[str, Any]:
    """Cost of admit, take and append at 100 and at 100,000 waiting jobs."""
    deep = 10_000 if run.quick else 100_000
    data = steps_at(run, {SHALLOW: 100, DEEP: deep})
    table = Table(
        "Redis us for each script call, by its own clock",
        ["call", "100 waiting", f"{deep:,} waiting", "ratio", "commands inside"],
    )
    for name in data[SHALLOW]:
        few, many = data[SHALLOW][name], data[DEEP][name]
        table.add(name, few["us"], many["us"], many["us"] / few["us"], many["commands"])
    table.print()
    return data


def steps_at(run: Runner, depths: dict[str, int]) -> dict[str, dict[str, dict[str, float]]]:
    """Return what each step costs, by model, each with so many jobs waiting."""
    settings = load_settings(run.stack.folder / "aqueduct.yaml")
    run.stack.stop_gateway()
    run.stack.redis.flushall()
    try:
        return asyncio.run(_measure(run, settings, depths))
    finally:
        run.stack.start_gateway()


async def _measure(run: Runner, settings: Settings, depths: dict[str, int]) -> dict[str, dict[str, dict[str, float]]]:
    return await _Bench(run, settings).measure(depths)


class _Bench:
    """Two rooms side by side, and the steps that are measured in turn."""

    def __init__(self, run: Runner, settings: Settings) -> None:
        self._redis = run.stack.redis
        self._settings = settings
        self._rounds = 3 if run.quick else 7
        self._taken: list[TakenJob] = []
        self._client = RedisClient(settings.redis, timeout_seconds=30)
        bulk = Bulk(settings.redis, "benchmark")
        catalogue = Catalogue(settings)
        self._admissions = Admissions(self._client, bulk, catalogue, OWNER)
        self._leases = Leases(self._client, bulk, catalogue, WORKER)
        self._upkeep = Upkeep(self._client, catalogue, OWNER)

    async def measure(self, depths: dict[str, int]) -> dict[str, dict[str, dict[str, float]]]:
        """Fill each model's room, then time the steps; returns medians by model and step."""
        await self._client.open()
        try:
            await self._upkeep.open()
            for model, depth in depths.items():
                for start in range(0, depth, 100):
                    await self._stay_alive()
                    await self._admit(model, min(100, depth - start))
            steps: dict[str, Callable[[str], Awaitable[int]]] = {
                "admit": self._admit,
                "take, 1 free slot": self._take_one,
                "append, one job's end": self._end_each,
                "take, 20 free slots": self._take_twenty,
                "append, 20 jobs' ends": self._end_twenty,
            }
            found: dict[str, dict[str, list[tuple[float, float]]]] = {model: {} for model in depths}
            for _ in range(self._rounds):
                for model in depths:
                    await self._stay_alive()
                    for name, step in steps.items():
                        if name.startswith("take, 20"):
                            await self._admit(model, CALLS)
                        before = self._clocks()
                        calls = await step(model)
                        us, commands = (after - was for was, after in zip(before, self._clocks(), strict=True))
                        found[model].setdefault(name, []).append((us / calls, commands / calls))
            return {
                model: {
                    name: {
                        "us": statistics.median(us for us, _ in rows),
                        "commands": statistics.median(n for _, n in rows),
                    }
                    for name, rows in steps_found.items()
                }
                for model, steps_found in found.items()
            }
        finally:
            await self._client.close()

    def _clocks(self) -> tuple[float, float]:
        stats: dict[str, Any] = self._redis.info("commandstats")
        inside = sum(row["calls"] for name, row in stats.items() if name not in ("cmdstat_evalsha", "cmdstat_info"))
        return stats.get("cmdstat_evalsha", {}).get("usec", 0), inside

    async def _stay_alive(self) -> None:
        await self._admissions.beat()
        await self._leases.renew(list(self._settings.models), [])

    async def _admit(self, model: str, calls: int = CALLS) -> int:
        await asyncio.gather(
            *(
                self._admissions.admit(self._job(model), not_after_ms=self._admissions.redis_now_ms() + 60_000)
                for _ in range(calls)
            )
        )
        return calls

    def _job(self, model: str) -> Admission:
        token = self._settings.tokens[0]
        spec = JobSpec(stream=True, created=1, tenant=token.name, public_model=model, options={"max_tokens": 64})
        body = b'{"messages":[{"role":"user","content":"' + b"x" * 400 + b'"}]}'
        return Admission(
            id=new_id(), model=model, token=token, lane="default", owner=OWNER, body=body, spec=spec, cost=200.0
        )

    async def _take(self, model: str, calls: int, free: int) -> int:
        for _ in range(calls):
            taken = await self._leases.take(model, free=free, mine=0, surplus=True)
            self._taken += taken.jobs
        return calls

    async def _take_one(self, model: str) -> int:
        return await self._take(model, CALLS, 1)

    async def _take_twenty(self, model: str) -> int:
        return await self._take(model, CALLS // 20, 20)

    async def _end_each(self, _model: str) -> int:
        return await self._end(1)

    async def _end_twenty(self, _model: str) -> int:
        return await self._end(20)

    async def _end(self, together: int) -> int:
        taken, self._taken = self._taken, []
        calls = 0
        for start in range(0, len(taken), together):
            await self._append_ends(taken[start : start + together])
            calls += 1
        return calls

    async def _append_ends(self, jobs: Sequence[TakenJob]) -> None:
        end = events.completed(Completed(1, 1, 10, 16, b'{"choices":[]}' * 20))
        ending = End(status=200, cost=26.0).to_json()
        rows = [AppendRow(job.id, job.attempt, 0, ending, (end,)) for job in jobs]
        verdicts = await self._leases.append([x for row in rows for x in append_parts(row)])
        assert set(verdicts) <= set(b"ow"), verdicts  # stored; with others that wait or not
