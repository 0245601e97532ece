"""Ferro Labs' AI gateway, one Go program, in its production mode with a master key and its request log at the default.

The backend is its provider `openai` (as in its own benchmarks), which only takes models of its catalogue: names of such
stand for ours. Its limit of 20 requests a second an address is off, and so is fetching the catalogue.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from benchmarks.backend import STAND_INS
from benchmarks.processes import Child, free_port
from benchmarks.stack import MODELS

KEY = "fgw_bench0123456789abcdef0123456789"


def start(environment: Path, folder: Path, backend_port: int) -> tuple[Child, int]:
    """Start it; returns its process and port."""
    config = folder / "ferrogw.yaml"
    config.write_text(yaml.safe_dump(settings(), sort_keys=False))
    port = free_port()
    variables = {
        "GATEWAY_ENV": "production",
        "GATEWAY_CONFIG": str(config),
        "MASTER_KEY": KEY,
        "PORT": str(port),
        "OPENAI_BASE_URL": f"http://127.0.0.1:{backend_port}/v1",
        "OPENAI_API_KEY": "none",
        "RATE_LIMIT_RPS": "0",
        "FERRO_MODEL_CATALOG_TIMEOUT": "0",
    }
    return Child([environment / "bin" / "ferrogw", "serve"], folder / "ferrogw.log", environment=variables), port


def settings() -> dict[str, object]:
    """Return its configuration: one target, and the public names as aliases."""
    known = {inner: name for name, inner in STAND_INS.items()}
    aliases = {name: known[inner] for name, inner in MODELS.items()}
    return {"strategy": {"mode": "single"}, "targets": [{"virtual_key": "openai"}], "aliases": aliases}
