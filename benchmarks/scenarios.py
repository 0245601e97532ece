"""The measures, each a function from a `Runner` to its data; the tables are printed on the way."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import orjson

from benchmarks.auto import auto
from benchmarks.batches import batches
from benchmarks.beside import beside
from benchmarks.processes import fetch
from benchmarks.queue_depth import queue
from benchmarks.report import Table, errors_text
from benchmarks.runner import Row, Runner, cpu_each, median
from benchmarks.shares import shares
from benchmarks.standing import standing
from benchmarks.versus import Side, side_by_side

Rows = dict[str, Row]


def plain(run: Runner) -> dict[str, Any]:
    """Plain requests in a closed loop, Flower running."""
    run.stack.start_flower()
    data = {}
    table = Table(
        "Plain requests, closed loop, 16 tokens",
        ["clients", "target", "req/s", "of direct", "of peer", "p50 ms", "p99 ms", "CPU us/req", "errors"],
    )
    costs = _cost_table("CPU us a request by process (Flower is not in the total)")
    for clients in (16, 64) if run.quick else (1, 16, 64, 256):
        rows = run.interleaved("plain", model="bench", clients=clients, seconds=run.seconds)
        data[str(clients)] = rows
        for name, row in rows.items():
            rate = row.get("requests_per_second", math.nan)
            each = cpu_each(row, row.get("requests", 0))
            table.add(
                clients, name, rate, _ratio(rows, "direct", "requests_per_second", rate),
                _ratio(rows, "litellm", "requests_per_second", rate),
                row["latency_ms"]["p50"], row["latency_ms"]["p99"],
                each.get("total") if row["processes"] else None, errors_text(row["errors"]),
            )  # fmt: skip
            _add_cost(costs, f"{name}@{clients}", each)
    table.print()
    costs.print()
    _print_redis(data[str(64)]["aqueduct"], data["64"]["aqueduct"]["requests"], "request (plain, 64 clients)")
    return data


def latency(run: Runner) -> dict[str, Any]:
    """What the gateway adds for a single client, whose requests are all told by tickets; busy and with pauses.

    A machine that was idle for a moment is slow to wake: with pauses that is most of what every hop costs.
    """
    data = {}
    table = Table("Added latency, one client", ["requests", "target", "p50 ms", "added p50", "p99 ms", "errors"])
    for title, pause_seconds in (("one after another", 0.0), ("pauses of 10 to 30 ms", 0.02)):
        rows = run.interleaved("plain", model="bench", clients=1, seconds=run.seconds, pause_seconds=pause_seconds)
        data[title] = rows
        base = rows["direct"]["latency_ms"]["p50"]
        for name, row in rows.items():
            p50 = row["latency_ms"]["p50"]
            table.add(title, name, p50, p50 - base, row["latency_ms"]["p99"], errors_text(row["errors"]))
    table.print()
    return data


def streams(run: Runner) -> dict[str, Any]:
    """64 streams at a time of 64 chunks without delay; from here on Flower does not run, so that the CPU is ours."""
    run.stack.stop_flower()
    rows = run.interleaved("streams", model="bench", clients=64, tokens=64, seconds=run.seconds)
    table = Table(
        "Streams without delay, 64 clients, 64 chunks each",
        ["target", "chunks/s", "of direct", "of peer", "streams/s", "first p50 ms", "p99", "CPU us/chunk", "errors"],
    )
    costs = _cost_table("CPU us a chunk by process")
    for name, row in rows.items():
        rate = row.get("chunks_per_second", math.nan)
        each = cpu_each(row, row.get("chunks", 0))
        table.add(
            name, rate,
            _ratio(rows, "direct", "chunks_per_second", rate), _ratio(rows, "litellm", "chunks_per_second", rate),
            row["streams"] / run.seconds, row["first_ms"]["p50"], row["first_ms"]["p99"],
            each.get("total") if row["processes"] else None, errors_text(row["errors"]),
        )  # fmt: skip
        _add_cost(costs, name, each)
    table.print()
    costs.print()
    _print_redis(rows["aqueduct"], rows["aqueduct"]["chunks"], "chunk (unpaced)")
    return rows


def paced(run: Runner) -> dict[str, Any]:
    """Many streams at 20 chunks a second each, arrivals spread evenly."""
    data: dict[str, Any] = {}
    table = Table(
        "Streams at 20 chunks/s each, arrivals spread",
        ["streams", "target", "added first p50 ms", "p99", "stall p50 ms", "p99", "chunks/s", "CPU us/chunk",
         "KB/stream", "errors"],
        note="stall: longest silence in a stream; the backend's pace is 50 ms. KB/stream: API and worker above idle.",
    )  # fmt: skip
    costs = _cost_table("CPU us a chunk by process")
    levels: tuple[tuple[int, str], ...] = ((100, "bench-20"), (500, "bench-20"))
    if not run.quick:
        levels = (*levels, (1000, "bench-20"), (2000, "bench-20"))
    tokens, window = (40, 2.0) if run.quick else (100, 4.0)
    for clients, model in levels:
        life = tokens / 20
        targets = [t for t in run.stack.targets if t.name != "litellm" or clients <= 500]
        idle = run.stack.meter.rss_bytes()
        rows = run.interleaved(
            "streams", rounds=1, targets=targets, model=model, clients=clients, tokens=tokens, seconds=window,
            ramp_seconds=life, warmup_seconds=life + 0.5, drain_seconds=life + 15,
            sample=lambda: {"rss_bytes": run.stack.meter.rss_bytes(), "connections": run.stack.meter.connections()},
        )  # fmt: skip
        data[str(clients)] = rows
        base = rows["direct"]["first_ms"]
        for name, row in rows.items():
            each = cpu_each(row, row.get("chunks", 0))
            table.add(
                clients, name, row["first_ms"]["p50"] - base["p50"], row["first_ms"]["p99"] - base["p99"],
                row["stall_ms"]["p50"], row["stall_ms"]["p99"], row["chunks_per_second"],
                each.get("total") if row["processes"] else None, _kb_each(row, idle, clients),
                errors_text(row["errors"]),
            )  # fmt: skip
            _add_cost(costs, f"{name}@{clients}", each)
    table.print()
    costs.print()
    last = data[str(levels[-1][0])]["aqueduct"]
    _print_redis(last, last["chunks"], f"chunk ({levels[-1][0]} paced streams)")
    print(f"Redis connections with {levels[-1][0]} streams: {last['connections']}", flush=True)
    return data


def memory(run: Runner) -> dict[str, Any]:
    """2,000 open streams at 2 chunks a second: resident memory and Redis connections."""
    run.stack.start_gateway()  # a process that was busy before keeps its memory and would look free of charge
    target = run.stack.target("aqueduct")
    assert target is not None
    clients = 500 if run.quick else 2000
    idle = run.stack.meter.rss_bytes()
    row = run.once(
        target, "streams", model="bench-2", clients=clients, tokens=24, seconds=1, ramp_seconds=4, warmup_seconds=6,
        drain_seconds=30, sample=lambda: {
            "rss_bytes": run.stack.meter.rss_bytes(), "connections": run.stack.meter.connections(),
        },
    )  # fmt: skip
    table = Table(
        f"{clients} open streams, 2 chunks/s each", ["process", "idle MB", "open MB", "KB/stream", "Redis connections"]
    )
    for name in ("api", "worker", "redis"):
        before, after = idle[name], row["rss_bytes"][name]
        table.add(name, before / 1e6, after / 1e6, (after - before) / clients / 1e3, row["connections"].get(name))
    table.print()
    print(f"errors: {errors_text(row['errors'])}")
    return {"idle": idle, **row}


def burst(run: Runner) -> dict[str, Any]:
    """500 streams that arrive at once."""
    targets = [t for t in run.stack.targets if t.name != "litellm"]
    rows = run.interleaved(
        "burst", targets=targets, rounds=min(3, run.rounds), model="bench-20", clients=500, tokens=20
    )
    table = Table("500 streams that arrive at once", ["target", "first p50 ms", "p99", "last", "last, added", "errors"])
    for name, row in rows.items():
        first = row["first_ms"]
        added = first["max"] - rows["direct"]["first_ms"]["max"]
        table.add(name, first["p50"], first["p99"], first["max"], added, errors_text(row["errors"]))
    table.print()
    return rows


def cancel(run: Runner) -> dict[str, Any]:
    """500 open streams whose clients leave one after another."""
    table = Table("Clients leave 500 open streams", ["target", "seen by backend", "p50 ms", "p99", "max", "errors"])
    data: dict[str, Any] = {}
    for target in run.stack.targets:
        fetch(f"http://127.0.0.1:{run.stack.backend_port}/stats?clear")
        row = run.once(target, "cancel", model="bench-20", clients=500, seconds=4)
        _, answer = fetch(f"http://127.0.0.1:{run.stack.backend_port}/stats?clear")
        seen = dict(orjson.loads(answer)["closed"])
        closed = row.pop("closed", {})
        delays = sorted((seen[tag] - at) * 1000 for tag, at in closed.items() if tag in seen)
        row["delays_ms"] = delays
        data[target.name] = row
        if delays:
            p99 = delays[int(len(delays) * 0.99)]
            table.add(target.name, len(delays), delays[len(delays) // 2], p99, delays[-1], errors_text(row["errors"]))
        else:
            table.add(target.name, 0, None, None, None, errors_text(row["errors"]))
    table.print()
    return data


def bodies(run: Runner) -> dict[str, Any]:
    """Request bodies of 1 KB to 10 MB."""
    data = {}
    table = Table("Body sizes, 4 clients", ["body", "target", "req/s", "p50 ms", "CPU us/req", "errors"])
    for size in (1_000, 100_000, 1_000_000, 10_000_000):
        rows = run.interleaved(
            "plain", rounds=1, model="bench", clients=4, seconds=max(2.0, run.seconds), body_bytes=size
        )
        data[str(size)] = rows
        for name, row in rows.items():
            each = cpu_each(row, row["requests"])
            table.add(
                size,
                name,
                row["requests_per_second"],
                row["latency_ms"]["p50"],
                each.get("total"),
                errors_text(row["errors"]),
            )
    table.print()
    return data


def flower(run: Runner) -> dict[str, Any]:
    """What a running Flower costs the gateway's own processes; ends with Flower running."""
    return _compare(run, "Flower", {"without": run.stack.stop_flower, "running": run.stack.start_flower})


def job_events(run: Runner) -> dict[str, Any]:
    """What telling of every job costs while Flower does not run."""
    return _beside(run, Side("no events", gateway={"job_events": False}), Side("events"))


def metrics(run: Runner) -> dict[str, Any]:
    """What counting for `/metrics` costs."""
    return _beside(run, Side("no metrics", gateway={"changes": {"metrics": False}}), Side("metrics"))


def models(run: Runner) -> dict[str, Any]:
    """47 further, idle models in the configuration."""
    few = run.stack.start_gateway
    return _compare(run, "Models configured (one used)", {"3 models": few, "50 models": lambda: few(further_models=47)})


def worker_processes(run: Runner) -> dict[str, Any]:
    """One to four worker processes, on however many cores there are."""
    gateway = run.stack.start_gateway
    ways = {f"{n} worker{'s' * (n > 1)}": partial(gateway, worker_models=[()] * n) for n in (1, 2, 4)}
    return _compare(run, "Worker processes", ways)


def _beside(run: Runner, first: Side, second: Side) -> dict[str, Any]:
    """Measure plain requests at 64 clients, by pairs of neighbours: what costs little is lost in a machine's moods."""
    run.stack.stop_gateway()
    data = side_by_side(first, second, ["plain"], rounds=2 if run.quick else 8)
    run.stack.start_gateway()
    return data


def _compare(run: Runner, title: str, ways: Mapping[str, Callable[[], None]]) -> dict[str, Any]:
    """Measure plain requests at 64 clients in several set-ups, in random order, several rounds."""
    gathered: dict[str, list[Row]] = {name: [] for name in ways}
    for _ in range(2 if run.quick else 5):
        for name in random.sample(list(ways), len(ways)):
            ways[name]()
            target = run.stack.target("aqueduct")
            assert target is not None
            row = run.once(target, "plain", model="bench", clients=64, seconds=run.seconds, warmup_seconds=1)
            gathered[name].append({**row, "rss_bytes": run.stack.meter.rss_bytes()})
    run.stack.start_gateway()
    data = {name: median(rows) for name, rows in gathered.items()}
    table = Table(
        f"{title}: plain requests, 64 clients",
        ["", "req/s", "of first", "p50 ms", "CPU us/req", "API MB", "worker MB", "errors"],
    )
    base = next(iter(data.values()))["requests_per_second"]
    for name, row in data.items():
        rate, rss = row["requests_per_second"], row["rss_bytes"]
        table.add(
            name, rate, rate / base if base else None, row["latency_ms"]["p50"],
            cpu_each(row, row["requests"]).get("total"), rss["api"] / 1e6, rss["worker"] / 1e6,
            errors_text(row["errors"]),
        )  # fmt: skip
    table.print()
    return data


_PROCESSES = ("api", "worker", "redis", "flower", "litellm", "backend", "load")


def _cost_table(title: str) -> Table:
    return Table(title, ["at", "total", *_PROCESSES])


def _add_cost(table: Table, name: str, each: dict[str, float]) -> None:
    table.add(name, each.get("total"), *(each.get(process) for process in _PROCESSES))


def _ratio(rows: Rows, name: str, key: str, value: float) -> float | None:
    base: float | None = rows.get(name, {}).get(key)
    return float(value / base) if base else None


def _kb_each(row: Row, idle: dict[str, int], streams: int) -> float | None:
    if row["target"] != "aqueduct" or "rss_bytes" not in row:
        return None
    grown: int = sum(row["rss_bytes"][name] - idle[name] for name in ("api", "worker"))
    return grown / streams / 1000


def _print_redis(row: Row, units: float, unit: str) -> None:
    """Print Redis's commands, those inside scripts included, and its reads and bytes, for each unit of work."""
    if not units:
        return
    table = Table(f"Redis for each {unit}", ["command", "calls", "Redis us"])
    for name, (calls, seconds) in sorted(row["commands"].items(), key=lambda item: -item[1][1]):
        if calls / units >= 0.005:
            table.add(name, calls / units, seconds / units * 1e6)
    for name, value in row["redis"].items():
        table.add(name, value / units, None)
    table.print()


SCENARIOS: dict[str, Callable[[Runner], dict[str, Any]]] = {
    "plain": plain,
    "latency": latency,
    "streams": streams,
    "paced": paced,
    "burst": burst,
    "cancel": cancel,
    "memory": memory,
    "bodies": bodies,
    "flower": flower,
    "events": job_events,
    "metrics": metrics,
    "models": models,
    "workers": worker_processes,
    "queue": queue,
    "batches": batches,
    "beside": beside,
    "standing": standing,
    "auto": auto,
    "shares": shares,
}
