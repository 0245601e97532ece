"""The LiteLLM proxy as its production page says: two uvicorn workers (one a core), a master key, no debug logs.

No database and no callbacks.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from benchmarks.processes import Child, free_port
from benchmarks.stack import MODELS

WORKERS = 2
KEY = "sk-bench-master-key"


def start(environment: Path, folder: Path, backend_port: int) -> tuple[Child, int]:
    """Start it; returns its process and port."""
    config = folder / "litellm.yaml"
    config.write_text(yaml.safe_dump(settings(backend_port), sort_keys=False))
    port = free_port()
    command: list[str | Path] = [environment / "bin" / "litellm", "--config", config]
    command += ["--host", "127.0.0.1", "--port", str(port), "--num_workers", str(WORKERS)]
    variables = {
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MASTER_KEY": KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PYTHONPATH": "",
    }
    return Child(command, folder / "litellm.log", environment=variables), port


def settings(backend_port: int) -> dict[str, object]:
    """Return its configuration: the same models over the same backend."""
    base = f"http://127.0.0.1:{backend_port}/v1"
    return {
        "model_list": [
            {"model_name": name, "litellm_params": {"model": f"openai/{inner}", "api_base": base, "api_key": "none"}}
            for name, inner in MODELS.items()
        ],
        "litellm_settings": {"set_verbose": False, "json_logs": False, "request_timeout": 600, "telemetry": False},
        "general_settings": {"master_key": KEY},
    }
