"""How costs grow: with streams, models, processes, what waits, and the size of bodies; `growth` is all of them.

Each prints a table and writes it as CSV and JSON into `.bench/growth/`. One measurement a point: a curve shows where
something bends, and `times` how the cost of a unit stands to the curve's first point.
"""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.queue_depth import steps_at
from benchmarks.report import Table, errors_text
from benchmarks.runner import Row, Runner, cpu_each
from benchmarks.stack import MODELS

Point = dict[str, Any]

STREAMS: Final = (100, 250, 500, 1000, 2000, 4000)
MODEL_COUNTS: Final = (1, 10, 50, 100, 200)
PROCESSES: Final = ((1, 1), (2, 1), (4, 1), (1, 2), (1, 4), (4, 4))
"""API processes, and workers of the model that is used."""
DEPTHS: Final = (10, 1_000, 10_000, 100_000)
BODIES: Final = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 40_000_000)
IDLE_SECONDS: Final = 2.0


def growth(run: Runner) -> dict[str, Any]:
    """All curves."""
    return {name: curve(run) for name, curve in CURVES.items()}


def with_streams(run: Runner) -> dict[str, Any]:
    """Streams at 20 chunks a second each, until there is no more CPU, and beyond."""
    points: list[Point] = []
    run.stack.start_gateway()  # one that was busy before keeps its memory
    idle = run.stack.meter.rss_bytes()
    for clients in STREAMS[:4] if run.quick else STREAMS:
        ramp = max(1.0, clients / 800)
        rows = run.interleaved(
            "streams", rounds=1, targets=[one for one in run.stack.targets if one.many_streams], model="bench-20",
            clients=clients, tokens=100, seconds=2.0, staggered=True, ramp_seconds=ramp, warmup_seconds=ramp + 0.7,
            drain_seconds=40, sample=lambda: {"rss_bytes": run.stack.meter.rss_bytes()},
        )  # fmt: skip
        for name, row in rows.items():
            first, base = row["first_ms"], rows["direct"]["first_ms"]
            grown = sum(row["rss_bytes"][part] - idle[part] for part in ("api", "worker"))
            points.append({
                "streams": clients, "target": name, "chunks/s": row["chunks_per_second"],
                "of the pace": row["chunks_per_second"] / clients / 20,
                "added first p50 ms": first["p50"] - base["p50"], "p99": first["p99"] - base["p99"],
                "worst gap p50 ms": row["stall_ms"]["p50"], "CPU us/chunk": _cpu(row, "chunks"),
                "KB/stream": grown / clients / 1000 if name == "aqueduct" else None,
                **_errors(row),
            })  # fmt: skip
    return _told(run, "streams", "Streams at 20 chunks/s each", points, "CPU us/chunk")


def with_models(run: Runner) -> dict[str, Any]:
    """Models in the configuration: what they cost idle, and with one or all of them used."""
    points: list[Point] = []
    for count in MODEL_COUNTS[:3] if run.quick else MODEL_COUNTS:
        names = [f"growth-{number}" for number in range(count)]
        backend = {"url": f"http://127.0.0.1:{run.stack.backend_port}/v1", "model": "bench"}
        begin = time.monotonic()
        run.stack.start_gateway(
            changes={"models": {name: {"concurrency": 64, "backends": [backend]} for name in names}}
        )
        started = time.monotonic() - begin
        target = run.stack.target("aqueduct")
        assert target is not None
        idle = _idle(run)
        memory = run.stack.meter.rss_bytes()
        one, every = (
            run.once(target, "plain", model="bench", models=used, clients=64, seconds=1.5, warmup_seconds=1.0)
            for used in (names[:1], names)
        )
        points.append({
            "models": count, "start s": started, "idle CPU, of a core": idle, "API MB": memory["api"] / 1e6,
            "workers MB": memory["worker"] / 1e6, "req/s, one used": one["requests_per_second"],
            "CPU us/req, one used": _cpu(one, "requests"), "req/s, all used": every["requests_per_second"],
            "CPU us/req, all used": _cpu(every, "requests"), **_errors(one, every),
        })  # fmt: skip
    run.stack.start_gateway()
    return _told(run, "models", "Models configured, 64 clients", points, "CPU us/req, all used")


def with_processes(run: Runner) -> dict[str, Any]:
    """API processes and workers, on however many cores there are."""
    points: list[Point] = []
    for apis, workers in PROCESSES[:2] if run.quick else PROCESSES:
        run.stack.start_gateway(api_processes=apis, more_workers=workers - 1)
        target = run.stack.target("aqueduct")
        assert target is not None
        asked: dict[str, Any] = {"model": "bench", "clients": 64, "seconds": 1.5, "warmup_seconds": 1.0}
        plain, streams = run.once(target, "plain", **asked), run.once(target, "streams", tokens=64, **asked)
        memory = run.stack.meter.rss_bytes()
        points.append({
            "API processes": apis, "workers": workers, "req/s": plain["requests_per_second"],
            "CPU us/req": _cpu(plain, "requests"), "chunks/s": streams["chunks_per_second"],
            "CPU us/chunk": _cpu(streams, "chunks"), "API MB": memory["api"] / 1e6,
            "workers MB": memory["worker"] / 1e6, **_errors(plain, streams),
        })  # fmt: skip
    run.stack.start_gateway()
    return _told(run, "processes", "API processes, and workers of the one model used, 64 clients", points, "CPU us/req")


def with_queue(run: Runner) -> dict[str, Any]:
    """Jobs that wait: what each step of a job costs inside Redis."""
    depths = dict(zip(MODELS, DEPTHS[:3] if run.quick else DEPTHS, strict=False))
    found = steps_at(run, depths)
    points = [
        {
            "waiting": depth,
            "step": name,
            "Redis us": found[model][name]["us"],
            "commands": found[model][name]["commands"],
        }
        for name in next(iter(found.values()))
        for model, depth in depths.items()
    ]
    return _told(run, "queue", "Redis us of a script call, by its own clock", points, "Redis us", by="step")


def with_bodies(run: Runner) -> dict[str, Any]:
    """Bodies up to 40 MB, by 4 clients, or 2 from 10 MB on."""
    points: list[Point] = []
    targets = [one for one in run.stack.targets if one.many_streams]
    parts = ("api", "worker", "redis")
    for size in BODIES[:4] if run.quick else BODIES:
        clients, seconds = (4, 2.0) if size < 10_000_000 else (2, 4.0)
        rows = run.interleaved(
            "plain", rounds=1, targets=targets, model="bench", clients=clients, seconds=seconds,
            body_bytes=size, sample=lambda: {"rss_bytes": run.stack.meter.rss_bytes()},
        )  # fmt: skip
        for name, row in rows.items():
            memory, rate = row["rss_bytes"], row["requests_per_second"]
            each = _cpu(row, "requests")
            points.append({
                "body": size, "target": name, "req/s": rate, "MB/s": rate * size / 1e6,
                "p50 ms": row["latency_ms"]["p50"], "CPU us/req": each,
                "CPU ms/MB": each / size * 1000 if each else None,
                **{f"{part} MB": memory[part] / 1e6 if name == "aqueduct" else None for part in parts},
                **_errors(row),
            })  # fmt: skip
    return _told(run, "bodies", "Bodies of requests", points, "CPU us/req")


def _idle(run: Runner) -> float:
    """Return how much of a core the gateway uses while nobody asks."""
    before = run.stack.meter.read()
    time.sleep(IDLE_SECONDS)
    after = run.stack.meter.read()
    spent = sum(
        seconds - before.cpu_seconds[name].get(pid, 0.0)
        for name in ("api", "worker", "redis")
        for pid, seconds in after.cpu_seconds[name].items()
    )
    return spent / (after.at - before.at)


def _cpu(row: Row, units: str) -> float | None:
    return cpu_each(row, row[units]).get("total") if row["processes"] else None


def _errors(*rows: Row) -> dict[str, str]:
    total: Counter[str] = Counter()
    for row in rows:
        total.update(row["errors"])
    return {"errors": errors_text(total)}


def _told(run: Runner, name: str, title: str, points: list[Point], cost: str, *, by: str = "target") -> dict[str, Any]:
    """Print a curve, write it, and return it."""
    folder = run.stack.folder.parent / "growth"
    written(folder, name, points, cost, by=by)
    table = Table(
        title, list(points[0]), note=f"times: {cost}, of the first. Written to {folder}/{name}.csv and .json."
    )
    for point in points:
        table.add(*point.values())
    table.print()
    return {"points": points}


def written(folder: Path, name: str, points: list[Point], cost: str, *, by: str) -> None:
    """Add to each point how its cost stands to that of the first with the same `by`; write all as CSV and JSON."""
    first: dict[Any, float] = {}
    for point in points:
        value = point[cost]
        point["times"] = value / first.setdefault(point.get(by), value) if value else None
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(points[0]))
        writer.writeheader()
        writer.writerows(points)
    (folder / f"{name}.json").write_text(json.dumps(points, indent=1))


CURVES: Final[dict[str, Callable[[Runner], dict[str, Any]]]] = {
    "growth_streams": with_streams,
    "growth_models": with_models,
    "growth_processes": with_processes,
    "growth_queue": with_queue,
    "growth_bodies": with_bodies,
}
