"""NVIDIA's Switchyard, a Rust server that its Python package brings, with a passthrough route a model.

It knows no keys of its own: its README leaves that to what stands in front of it. Its log is at the default.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.processes import Child, free_port
from benchmarks.stack import MODELS

_SERVE = """
import signal, sys
from switchyard_rust.server import Server
server = Server(sys.argv[1], int(sys.argv[2]))
signal.pause()
"""


def start(environment: Path, folder: Path, backend_port: int) -> tuple[Child, int]:
    """Start it; returns its process and port."""
    config = folder / "switchyard.toml"
    config.write_text(settings(backend_port))
    port = free_port()
    command: list[str | Path] = [environment / "bin" / "python", "-c", _SERVE, config, str(port)]
    return Child(command, folder / "nemo-switchyard.log", environment={"PYTHONPATH": ""}), port


def settings(backend_port: int) -> str:
    """Return its configuration as TOML."""
    lines = ["schema_version = 1", "[llm_clients.backend]", 'format = "openai_chat"']
    lines.append(f'base_url = "http://127.0.0.1:{backend_port}/v1"')
    for name, inner in MODELS.items():
        lines += [f"[targets.{name}]", f"id = {json.dumps(inner)}", 'llm_client = "backend"']
        lines += [f"[routes.{name}]", f"id = {json.dumps(name)}", 'type = "passthrough"', f'target = "{name}"']
    return "\n".join(lines) + "\n"
