"""Scenarios of plain requests: `plain`, `latency`, `bodies`."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.report import Table, errors_text
from benchmarks.runner import Runner, cpu_each
from benchmarks.tables import Comparison, Rows, print_redis


def plain(run: Runner) -> dict[str, Any]:
    """Plain requests in a closed loop."""
    levels = (16, 64) if run.quick else (1, 16, 64, 256)
    data = {str(clients): plain_rows(run, clients) for clients in levels}
    print_plain(run, data)
    return data


def plain_rows(run: Runner, clients: int, **arguments: Any) -> Rows:
    """Measure that many clients."""
    return run.interleaved("plain", model="bench", clients=clients, **{"seconds": run.seconds, **arguments})


def print_plain(run: Runner, data: dict[str, Rows]) -> None:
    """Print what was measured, by the number of clients."""
    table = Comparison(
        run, "Plain requests, closed loop, 16 tokens", ["req/s", "p50 ms", "p99 ms"],
        rate="requests_per_second", units="requests",
    )  # fmt: skip
    for clients, rows in data.items():
        for name, row in rows.items():
            rate, latency = row.get("requests_per_second", math.nan), row["latency_ms"]
            table.add(f"{clients} clients, {name}", rows, row, rate, latency["p50"], latency["p99"])
    table.print()
    if "64" in data:
        print_redis(data["64"]["aqueduct"], data["64"]["aqueduct"]["requests"], "request (plain, 64 clients)")


def latency(run: Runner) -> dict[str, Any]:
    """What the gateway adds for a single client, whose requests are all told by tickets; busy and with pauses.

    A machine that was idle for a moment is slow to wake: with pauses that is most of what every hop costs.
    """
    ways = (("one after another", 0.0), ("pauses of 10 to 30 ms", 0.02))
    data = {title: latency_rows(run, pause_seconds) for title, pause_seconds in ways}
    print_latency(data)
    return data


def latency_rows(run: Runner, pause_seconds: float = 0.0, **arguments: Any) -> Rows:
    """Measure one client."""
    return plain_rows(run, 1, pause_seconds=pause_seconds, **arguments)


def print_latency(data: dict[str, Rows]) -> None:
    """Print what was measured, by what the client did between requests."""
    table = Table("Added latency, one client", ["requests", "target", "p50 ms", "added p50", "p99 ms", "errors"])
    for title, rows in data.items():
        base = rows["direct"]["latency_ms"]["p50"]
        for name, row in rows.items():
            p50 = row["latency_ms"]["p50"]
            table.add(title, name, p50, p50 - base, row["latency_ms"]["p99"], errors_text(row["errors"]))
    table.print()


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
