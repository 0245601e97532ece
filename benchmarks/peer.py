"""A gateway without a queue to compare with: the LiteLLM proxy, as its production page says, in its own environment.

Two uvicorn workers (one a core), a master key, no debug logs, no database and no callbacks. Installed once from the
package index into `.bench/`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from benchmarks.processes import Child, free_port, wait_for
from benchmarks.stack import MODELS, Stack, Target

PEERS = ("litellm",)
WORKERS = 2
WARM_UP_SECONDS = 6
_KEY = "sk-bench-master-key"


def start_peer(stack: Stack, name: str, folder: Path) -> None:
    """Install the peer if need be, start it, and add it to the stack's targets."""
    program = install(folder)
    config = stack.folder / "litellm.yaml"
    config.write_text(yaml.safe_dump(settings(stack.backend_port), sort_keys=False))
    port = free_port()
    command: list[str | Path] = [
        program,
        "--config",
        config,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        str(WORKERS),
    ]
    environment = {
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MASTER_KEY": _KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PYTHONPATH": "",
    }
    child = Child(command, stack.folder / "litellm.log", environment=environment)
    stack.on_exit(child.stop)
    wait_for([child], f"http://127.0.0.1:{port}/health/liveliness", seconds=90, token=_KEY)
    stack.meter.add("litellm", child.pid)
    target = Target(name, port, _KEY, {model: model for model in MODELS}, ("litellm",))
    # Its worker processes start one after another and are slow at first: only a warm peer is a fair one.
    warm_up = {"model": "bench", "clients": 16, "warmup_seconds": 1, "seconds": WARM_UP_SECONDS}
    stack.load.run({"op": "plain", "target": target.address(), **warm_up}, lambda: None)
    stack.targets.append(target)


def settings(backend_port: int) -> dict[str, object]:
    """Return its configuration: the same models over the same backend."""
    base = f"http://127.0.0.1:{backend_port}/v1"
    return {
        "model_list": [
            {"model_name": name, "litellm_params": {"model": f"openai/{inner}", "api_base": base, "api_key": "none"}}
            for name, inner in MODELS.items()
        ],
        "litellm_settings": {"set_verbose": False, "json_logs": False, "request_timeout": 600, "telemetry": False},
        "general_settings": {"master_key": _KEY},
    }


def install(folder: Path) -> Path:
    """Return the peer's program, installed when it is not there yet."""
    environment = folder / "litellm-venv"
    program = environment / "bin" / "litellm"
    if not program.exists():
        print("installing litellm[proxy] into .bench/ …", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([environment / "bin" / "pip", "install", "--quiet", "litellm[proxy]"], check=True)
    return program


def version(folder: Path) -> str:
    """Return the installed version."""
    python = folder / "litellm-venv" / "bin" / "python"
    code = "import importlib.metadata as m; print(m.version('litellm'))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
