"""Other gateways, measured in the same run: each installed once from the package index into `.bench/`, on loopback.

None of them has a queue. Each is started as its own documentation says for production, with a key where it knows one,
over the same backend with the same models.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import ferrogw, litellm, switchyard
from benchmarks.processes import Child, wait_for
from benchmarks.stack import MODELS, Stack, Target

WARM_UP_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Peer:
    """How one of them is installed and started."""

    requirement: str
    start: Callable[[Path, Path, int], tuple[Child, int]]
    """In: its virtual environment, a folder for its files, the backend's port. Out: its process and port."""
    health: str
    token: str
    warm_up_seconds: float = WARM_UP_SECONDS
    many_streams: bool = True
    everywhere: bool = False
    """It listens on every address, and cannot be told otherwise."""


PEERS = {
    "litellm": Peer(
        "litellm[proxy]", litellm.start, "/health/liveliness", litellm.KEY, warm_up_seconds=6, many_streams=False
    ),
    "ferrogw": Peer("ferrogw==1.5.10", ferrogw.start, "/readyz", ferrogw.KEY, everywhere=True),
    "nemo-switchyard": Peer("nemo-switchyard==0.3.0", switchyard.start, "/health", ""),
}


def install(names: Sequence[str], folder: Path) -> dict[str, str]:
    """Install those that are not there yet, and return the version of each."""
    versions = {}
    for name in names:
        environment = _environment(folder, name)
        python = environment / "bin" / "python"
        package = PEERS[name].requirement.partition("=")[0].partition("[")[0]
        look: list[str | Path] = [python, "-c", f"import importlib.metadata as m; print(m.version({package!r}))"]
        if not python.exists() or subprocess.run(look, check=False, capture_output=True).returncode:
            print(f"installing {PEERS[name].requirement} into .bench/ …", file=sys.stderr, flush=True)
            subprocess.run([sys.executable, "-m", "venv", environment], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", PEERS[name].requirement], check=True)
        versions[name] = subprocess.run(look, check=True, capture_output=True, text=True).stdout.strip()
    return versions


def start(names: Sequence[str], stack: Stack, folder: Path) -> None:
    """Start peers, warm them up, and add them to the stack's targets."""
    for name in names:
        peer = PEERS[name]
        child, port = peer.start(_environment(folder, name), stack.folder, stack.backend_port)
        stack.on_exit(child.stop)
        wait_for([child], f"http://127.0.0.1:{port}{peer.health}", seconds=90, token=peer.token)
        stack.meter.add(name, child.pid)
        models = {model: model for model in MODELS}
        target = Target(name, port, peer.token, models, (name,), many_streams=peer.many_streams)
        # Processes that start one after another, and code that is compiled late: only a warm peer is a fair one.
        warm_up = {"model": "bench", "clients": 16, "warmup_seconds": 1, "seconds": peer.warm_up_seconds}
        stack.load.run({"op": "plain", "target": target.address(), **warm_up}, lambda: None)
        stack.targets.append(target)


def _environment(folder: Path, name: str) -> Path:
    return folder / f"{name}-venv"
