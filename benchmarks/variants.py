"""The gateway in other set-ups than the usual one, where everything is on: what each thing costs, or brings."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from benchmarks.report import Table, errors_text
from benchmarks.runner import Row, Runner, cpu_each, median
from benchmarks.versus import Side, side_by_side

SWITCHES: Final[dict[str, dict[str, Any]]] = {
    "no request log": {"changes": {"log_level": "warning"}},
    "no Flower": {"flower": False},
    "no job events": {"job_events": False},
    "no metrics": {"changes": {"metrics": False}},
    "all four off": {"flower": False, "job_events": False, "changes": {"log_level": "warning", "metrics": False}},
}
"""By what is switched off, the arguments of `Stack.start_gateway`."""


def switched_off(run: Runner) -> dict[str, Any]:
    """Plain requests and unpaced streams with everything on, and with each thing off, in random order."""
    ways = {"everything on": {}, **SWITCHES}
    gathered: dict[str, list[dict[str, Row]]] = {name: [] for name in ways}
    for _ in range(2 if run.quick else 3):
        for name in random.sample(list(ways), len(ways)):
            run.stack.start_gateway(**ways[name])
            target = run.stack.target("aqueduct")
            assert target is not None
            asked: dict[str, Any] = {"model": "bench", "clients": 64, "seconds": run.seconds, "warmup_seconds": 1}
            streams = run.once(target, "streams", tokens=64, **asked)
            gathered[name].append({"plain": run.once(target, "plain", **asked), "streams": streams})
    run.stack.start_gateway()
    data = {name: median(rows) for name, rows in gathered.items()}
    table = Table(
        "What is on by default, switched off: 64 clients",
        ["", "req/s", "CPU us/req", "Flower", "up", "chunks/s", "CPU us/chunk", "errors"],
        note="CPU: of API, workers and Redis; Flower's and the supervisor's a request apart.",
    )
    for name, rows in data.items():
        plain, streams = rows["plain"], rows["streams"]
        each = cpu_each(plain, plain["requests"])
        table.add(
            name, plain["requests_per_second"], each["total"], each.get("flower"), each.get("up"),
            streams["chunks_per_second"], cpu_each(streams, streams["chunks"])["total"],
            errors_text({**plain["errors"], **streams["errors"]}),
        )  # fmt: skip
    table.print()
    return data


def log(run: Runner) -> dict[str, Any]:
    """What the line of the log a request costs."""
    return _beside(run, Side("no log", gateway=SWITCHES["no request log"]), Side("log"))


def flower(run: Runner) -> dict[str, Any]:
    """What a running Flower costs the gateway's own processes."""
    return _beside(run, Side("no Flower", gateway=SWITCHES["no Flower"]), Side("Flower"))


def job_events(run: Runner) -> dict[str, Any]:
    """What telling of every job costs while Flower does not run."""
    off = {**SWITCHES["no Flower"], **SWITCHES["no job events"]}
    return _beside(run, Side("no events", gateway=off), Side("events", gateway=SWITCHES["no Flower"]))


def metrics(run: Runner) -> dict[str, Any]:
    """What counting for `/metrics` costs."""
    return _beside(run, Side("no metrics", gateway=SWITCHES["no metrics"]), Side("metrics"))


def models(run: Runner) -> dict[str, Any]:
    """46 further, idle models in the configuration."""
    few = run.stack.start_gateway
    return _compare(run, "Models configured (one used)", {"4 models": few, "50 models": lambda: few(further_models=46)})


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
