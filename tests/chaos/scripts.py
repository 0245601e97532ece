"""The Lua scripts against their model (`tests/shared/room_model.py`): a number of steps in, what broke in words out."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.shared.room_probe import Probe
from tests.shared.room_runs import run_seed
from tests.support.processes import RedisServer

STEPS_A_RUN = 400
MOST_SECONDS = 900
"""A machine that needs longer has another trouble."""


def run_scripts(folder: Path, steps: int, seed: int | None = None) -> list[str]:
    """Play so many random steps, in runs of their own; returns what broke first, with the seed that repeats it."""
    first = int.from_bytes(os.urandom(4), "big") if seed is None else seed
    runs, began = -(-steps // STEPS_A_RUN), time.monotonic()
    print(f"scripts: {runs} runs of {STEPS_A_RUN} random steps, from seed {first} on", flush=True)
    with RedisServer(folder / "scripts", settings=("appendonly no",)) as server, server.client() as client:
        probe = Probe(client)
        for number in range(runs):
            if broke := run_seed(probe, first + number, STEPS_A_RUN):
                return [broke]
            if time.monotonic() - began > MOST_SECONDS:
                return [f"only {(number + 1) * STEPS_A_RUN} of {steps} steps within {MOST_SECONDS} s"]
    print(f"scripts: held over {runs * STEPS_A_RUN} steps ({time.monotonic() - began:.0f} s)", flush=True)
    return []
