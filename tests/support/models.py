"""Public models for tests, one for each way the demo backend can behave: `model("tokens=64&token_seconds=0.1")`.

A model's settings here are a plain dict, as in the YAML file, without the backend's URL: `System` fills that in.
"""

from __future__ import annotations

from typing import Any


def model(behaviour: str = "", /, **settings: Any) -> dict[str, Any]:
    """Return a model whose backend behaves as the query string says (`tokens=8&cut_after=3`), with further settings."""
    name = f"demo?{behaviour}" if behaviour else "demo"
    return {"max_wait_seconds": 30, "timeout_seconds": 30, **settings, "backends": [{"model": name}]}


MODELS: dict[str, dict[str, Any]] = {
    "demo": model(),
    "echo": model("prefix=1"),
    "short": model("tokens=3"),
    "long": model("tokens=400&token_seconds=0.05"),
    "slow-start": model("tokens=4&first_token_seconds=1"),
    "one-slot": model("tokens=4&token_seconds=0.05", concurrency=1),
    "tools": model("tool_calls=2"),
    "reasoning": model("reasoning=1"),
    "refuses": model("status=400&code=bad_thing&message=no"),
    "overloaded": model("status=503"),
    "cut-before": model("cut_before=1"),
    "cut-mid-stream": model("tokens=8&cut_after=4"),
    "stalls": model("stall=1", first_token_timeout_seconds=1, stall_timeout_seconds=1),
    "stalls-mid-stream": model("tokens=8&stall_after=4", stall_timeout_seconds=1),
    "errors-mid-stream": model("tokens=8&error_after=4"),
    "garbage": model("garbage=1"),
    "huge": model("huge=1000000"),
}
"""The models of the `system` fixture."""
