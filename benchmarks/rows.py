"""`python rows.py FOLDER [GATEWAY]` in a tree's root: start its gateway, measure what standard input names.

A JSON line each. GATEWAY, an object, holds arguments of `Stack.start_gateway`, where it is not the usual one.

The figures come from the tree's own `benchmarks`, so that an older one can be measured beside this one (`versus`).
"""

from __future__ import annotations

import inspect
import json
import resource
import sys
from pathlib import Path
from typing import Any

LOADS: dict[str, dict[str, Any]] = {
    "plain": {"operation": "plain", "model": "bench", "clients": 64, "seconds": 1.5, "warmup_seconds": 0.7},
    "plain16": {"operation": "plain", "model": "bench", "clients": 16, "seconds": 1.5, "warmup_seconds": 0.7},
    "one": {"operation": "plain", "model": "bench", "clients": 1, "seconds": 1.5, "warmup_seconds": 0.5},
    "streams": {
        "operation": "streams", "model": "bench", "clients": 64, "tokens": 64, "seconds": 1.5, "warmup_seconds": 0.7,
    },
    "paced100": {
        "operation": "streams", "model": "bench-20", "clients": 100, "tokens": 40, "seconds": 2.0, "ramp_seconds": 2,
        "warmup_seconds": 2.5, "drain_seconds": 17,
    },
    "paced500": {
        "operation": "streams", "model": "bench-20", "clients": 500, "tokens": 40, "seconds": 2.0, "ramp_seconds": 2,
        "warmup_seconds": 2.5, "drain_seconds": 17,
    },
    "paced1000": {
        "operation": "streams", "model": "bench-20", "clients": 1000, "tokens": 40, "seconds": 2.0, "ramp_seconds": 2,
        "warmup_seconds": 2.5, "drain_seconds": 17,
    },
    "fast": {
        "operation": "streams", "model": "bench-100", "clients": 500, "tokens": 200, "seconds": 3.0, "ramp_seconds": 2,
        "warmup_seconds": 2.5, "drain_seconds": 30,
    },
    "burst": {"operation": "burst", "model": "bench-20", "clients": 4000, "tokens": 2},
    "beside": {
        "operation": "crowd", "model": "bench-20", "others": 1000, "others_tokens": 60, "clients": 1000, "tokens": 20,
        "settle_seconds": 2.5,
    },
}  # fmt: skip
"""By name, what one measurement is."""

ON_DEMAND = ("paced1000", "fast", "burst", "beside")
"""Only measured by name: they take long."""


def main() -> None:
    """Measure until standard input ends."""
    sys.path.insert(0, "")  # the tree, not the folder of this file
    from benchmarks import stack as stack_module  # noqa: PLC0415 - the other tree's
    from benchmarks.runner import Runner  # noqa: PLC0415
    from benchmarks.stack import Stack  # noqa: PLC0415

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    stack_module.MODELS.setdefault("bench-100", "bench?token_seconds=0.01")
    stack: Any
    with Stack(Path(sys.argv[1])) as stack:
        given = json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}")
        if "flower" in inspect.signature(stack.start_gateway).parameters:
            stack.start_gateway(**given)
        else:  # an older tree, which has the log and Flower off unless told
            stack.start_gateway(**{"changes": {"log_level": "info"}, **given})
            stack.start_flower()
        run = Runner(stack, rounds=1, seconds=1.5, quick=True)
        target = stack.target("aqueduct")
        assert target is not None
        print("ready", flush=True)
        for line in sys.stdin:
            load = dict(LOADS[line.strip()])
            print(json.dumps(run.once(target, load.pop("operation"), **load), default=str), flush=True)


if __name__ == "__main__":
    main()
