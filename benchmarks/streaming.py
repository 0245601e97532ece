"""Scenarios of streams: `streams`, `paced`, `fast`, `burst`, `burst_beside`, `cancel`, `memory`."""

from __future__ import annotations

import math
from typing import Any

import orjson

from benchmarks.processes import fetch
from benchmarks.report import Table, errors_text
from benchmarks.runner import Row, Runner
from benchmarks.stack import Target
from benchmarks.tables import Comparison, Rows, print_redis

PACE_MS = 50.0
"""Between two chunks of `bench-20`."""


def streams(run: Runner) -> Rows:
    """64 streams at a time of 64 chunks without delay."""
    rows = streams_rows(run)
    print_streams(run, rows)
    return rows


def streams_rows(run: Runner, **arguments: Any) -> Rows:
    """Measure them."""
    return run.interleaved("streams", model="bench", clients=64, tokens=64, **{"seconds": run.seconds, **arguments})


def print_streams(run: Runner, rows: Rows) -> None:
    """Print what was measured."""
    table = Comparison(
        run, "Streams without delay, 64 clients, 64 chunks each", ["chunks/s", "streams/s", "first p50 ms", "p99"],
        rate="chunks_per_second", units="chunks",
    )  # fmt: skip
    for name, row in rows.items():
        rate, first = row.get("chunks_per_second", math.nan), row["first_ms"]
        table.add(name, rows, row, rate, row["streams"] / row["window_seconds"], first["p50"], first["p99"])
    table.print()
    print_redis(rows["aqueduct"], rows["aqueduct"]["chunks"], "chunk (unpaced)")


def paced(run: Runner) -> dict[str, Any]:
    """Many streams at 20 chunks a second each, begins and ends spread evenly."""
    data: dict[str, Any] = {}
    idle = run.stack.meter.rss_bytes()
    for clients in (100, 500, 1000) if run.quick else (100, 500, 1000, 2000):
        targets = [one for one in run.stack.targets if one.many_streams or clients <= 500]
        data[str(clients)] = paced_rows(run, clients, targets)
    print_paced(run, data, idle)
    most, last = list(data)[-1], list(data.values())[-1]["aqueduct"]
    print_redis(last, last["chunks"], f"chunk ({most} paced streams)")
    print(f"Redis connections with {most} streams: {last['connections']}", flush=True)
    return data


def paced_rows(run: Runner, clients: int, targets: list[Target], *, rounds: int = 3) -> Rows:
    """Measure that many streams."""
    tokens, window = (40, 2.0) if run.quick else (100, 3.0)
    return run.interleaved(
        "streams", rounds=rounds, targets=targets, model="bench-20", clients=clients, tokens=tokens, seconds=window,
        staggered=True, ramp_seconds=1.5, warmup_seconds=2.2, drain_seconds=tokens / 20 + 15,
        sample=lambda: {"rss_bytes": run.stack.meter.rss_bytes(), "connections": run.stack.meter.connections()},
    )  # fmt: skip


def print_paced(run: Runner, data: dict[str, Rows], idle: dict[str, int] | None = None) -> None:
    """Print what was measured, by the number of streams; `idle` is the memory before."""
    table = Comparison(
        run, "Streams at 20 chunks/s each, begins and ends spread",
        ["added first p50 ms", "p99", "stall p50 ms", "p99", "chunks/s", "KB/stream"],
        rate="chunks_per_second", units="chunks",
        note="stall: longest silence in a stream; the backend's pace is 50 ms. KB/stream: API and worker above idle.",
    )  # fmt: skip
    for clients, rows in data.items():
        base = rows["direct"]["first_ms"]
        for name, row in rows.items():
            first, stall = row["first_ms"], row["stall_ms"]
            table.add(
                f"{clients} streams, {name}", rows, row, first["p50"] - base["p50"], first["p99"] - base["p99"],
                stall["p50"], stall["p99"], row["chunks_per_second"], _kb_each(row, idle, int(clients)),
            )  # fmt: skip
    table.print()


def fast(run: Runner) -> Rows:
    """500 streams at 100 chunks a second each: more than there is CPU for."""
    rows = fast_rows(run)
    print_fast(run, rows)
    return rows


def fast_rows(run: Runner) -> Rows:
    """Measure them."""
    targets = [one for one in run.stack.targets if one.many_streams]
    return run.interleaved(
        "streams", rounds=min(3, run.rounds), targets=targets, model="bench-100", clients=500, tokens=240, seconds=2.0,
        staggered=True, ramp_seconds=1.0, warmup_seconds=1.7, drain_seconds=30,
    )  # fmt: skip


def print_fast(run: Runner, rows: Rows) -> None:
    """Print what was measured."""
    table = Comparison(
        run, "500 streams at 100 chunks/s each", ["chunks/s", "worst gap p50 ms", "p99", "first p50 ms"],
        rate="chunks_per_second", units="chunks",
        note="worst gap: longest silence in a stream after its first token, or of one that came in a single piece, all "
        "of its time; the backend's pace is 10 ms.",
    )  # fmt: skip
    for name, row in rows.items():
        stall, first = row["stall_ms"], row["first_ms"]
        table.add(name, rows, row, row["chunks_per_second"], stall["p50"], stall["p99"], first["p50"])
    table.print()


def burst_beside(run: Runner) -> Rows:
    """1,000 streams that arrive at once while 1,000 others flow."""
    rows = crowd_rows(run, [one for one in run.stack.targets if one.many_streams])
    print_crowd(rows)
    return rows


def crowd_rows(run: Runner, targets: list[Target]) -> Rows:
    """Measure them."""
    return run.interleaved(
        "crowd", rounds=min(3, run.rounds), targets=targets, model="bench-20", others=1000, others_tokens=60,
        clients=1000, tokens=20, settle_seconds=2.5,
    )  # fmt: skip


def print_crowd(rows: Rows) -> None:
    """Print what was measured."""
    table = Table(
        "1,000 streams at once, while 1,000 others flow at 20 chunks/s",
        ["target", "first p50 ms", "last", "last, added", "others' gap p50 ms", "p99", "worst", "p99 after", "errors"],
        note="The others' gaps until the last first token of those that came (0.4 s at least), and in the second "
        "after, when 2,000 flow; the backend's pace is 50 ms.",
    )
    for name, row in rows.items():
        first, gap = row["first_ms"], row["gap_ms"]
        table.add(
            name, first["p50"], first["max"], first["max"] - rows["direct"]["first_ms"]["max"], gap["p50"], gap["p99"],
            gap["max"], row["gap_after_ms"]["p99"], errors_text(row["errors"]),
        )  # fmt: skip
    table.print()


def burst(run: Runner) -> dict[str, Any]:
    """500 streams that arrive at once."""
    targets = [one for one in run.stack.targets if one.many_streams]
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


def _kb_each(row: Row, idle: dict[str, int] | None, streams: int) -> float | None:
    if row["target"] != "aqueduct" or idle is None:
        return None
    grown: int = sum(row["rss_bytes"][name] - idle[name] for name in ("api", "worker"))
    return grown / streams / 1000
