"""What is measured: each scenario runs its measures with a `Runner`, prints its tables and returns all figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.auto import auto
from benchmarks.batches import batches
from benchmarks.beside import beside
from benchmarks.growth import CURVES, growth
from benchmarks.queue_depth import queue
from benchmarks.requests import bodies, latency, plain
from benchmarks.runner import Runner
from benchmarks.shares import shares
from benchmarks.standing import standing
from benchmarks.streaming import burst, burst_beside, cancel, fast, memory, paced, streams
from benchmarks.targets import targets
from benchmarks.variants import flower, job_events, log, metrics, models, switched_off, worker_processes

SCENARIOS: dict[str, Callable[[Runner], dict[str, Any]]] = {
    "plain": plain,
    "latency": latency,
    "streams": streams,
    "paced": paced,
    "fast": fast,
    "burst": burst,
    "burst_beside": burst_beside,
    "cancel": cancel,
    "memory": memory,
    "bodies": bodies,
    "off": switched_off,
    "log": log,
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
    "targets": targets,
    "growth": growth,
    **CURVES,
}

ON_DEMAND = ("targets", "growth", *CURVES)
"""Only run by name: what the others measure, in another order."""
