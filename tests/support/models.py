"""Public models for tests, one for each way the demo backend can behave: `model("tokens=64&token_seconds=0.1")`.

A model's settings here are a plain dict, as in the YAML file, without the backend's URL: `System` fills that in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def model(behaviour: str = "", /, *, backend: Mapping[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """Return a model whose backend behaves as the query string says (`tokens=8&cut_after=3`), with further settings.

    `backend` holds further settings of its one backend, such as `fold_streams`.
    """
    name = f"demo?{behaviour}" if behaviour else "demo"
    return {
        "max_wait_seconds": 30, "timeout_seconds": 30, **settings, "backends": [{"model": name, **(backend or {})}],
    }  # fmt: skip


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

WIRE_MODELS: dict[str, dict[str, Any]] = {
    "demo": model(aliases=["fast", "vendor/alias"]),
    "vendor/family/model-7b": model("tokens=2"),
    "echo": model("prefix=1"),
    "short": model("tokens=3"),
    "unserved": model(),
    # What an answer holds
    "tools": model("tool_calls=2"),
    "reasoning": model("reasoning=1"),
    "refusal": model("refusal=1"),
    **{
        f"finish-{reason}": model(f"tokens=2&finish={reason}")
        for reason in ("length", "content_filter", "eos", "end_turn", "max_tokens", "tool_call", "odd", "abort")
    },
    "gives-floats": model("encoding=float&dimensions=8"),
    "gives-base64": model("encoding=base64&dimensions=8"),
    # How a backend writes it
    "usage-with-choice": model("tokens=2&usage_with_choice=1"),
    "usage-null": model("tokens=2&usage_null=1"),
    "no-usage": model("tokens=2&no_usage=1"),
    "created-varies": model("tokens=4&created_varies=1"),
    "spaces": model("tokens=4&spaces=1"),
    "crlf": model("tokens=4&crlf=1"),
    "split": model("tokens=4&split=7"),
    "batched": model("tokens=4&batch=3"),
    "commented": model("tokens=4&comments=1"),
    "drop-finish-null": model("tokens=4&drop_finish_null=1"),
    "no-done": model("tokens=4&no_done=1"),
    "first-token-late": model("tokens=2&first_token_seconds=2.6"),
    "slow": model("tokens=2&first_token_seconds=1.5"),
    # What a backend refuses
    **{
        f"status-{status}": model(f"status={status}&code=own_code&message=own+words", max_attempts=1)
        for status in (400, 401, 403, 404, 408, 413, 418, 422, 429, 500, 502, 503, 504)
    },
    "retry-after-7": model("status=429&retry_after=7"),
    "retry-after-300": model("status=503&retry_after=300", max_attempts=1),
    "fails-once": model("status=429&retry_after=1&fail_times=1"),
    "llamacpp-400": model("status=400&error_shape=llamacpp&message=own+words"),
    "vllm-old-400": model("status=400&error_shape=vllm_old&message=own+words"),
    "html-502": model("status=502&error_shape=html", max_attempts=1),
    "html-500": model("status=500&error_shape=html"),
    "empty-500": model("status=500&error_shape=empty"),
    "error-in-200": model("status=400&error_in_200=1&message=own+words"),
    "vllm-old-in-200": model("status=400&error_in_200=1&error_shape=vllm_old&message=own+words"),
    # What goes wrong
    **{
        f"error-after-{shape}": model(f"tokens=6&error_after=3&error_shape={shape}&message=own+words&code=own_code")
        for shape in ("openai", "llamacpp", "vllm_old")
    },
    "garbage": model("tokens=6&garbage=1"),
    "invalid-utf8": model("tokens=6&invalid_utf8=1"),
    "wrong-content-type": model("tokens=3&wrong_content_type=1"),
    "redirect": model("redirect=1"),
    "cut-before": model("cut_before=1", max_attempts=1),
    "cut-mid-stream": model("tokens=6&cut_after=3"),
    "eof-mid-stream": model("tokens=6&eof_after=3"),
    "stall": model("stall=1", first_token_timeout_seconds=0.5, timeout_seconds=0.8),
    "stall-mid-stream": model("tokens=6&stall_after=3", stall_timeout_seconds=0.5),
    "close-idle": model("tokens=2&close_idle=1"),
    "close-on-reuse": model("tokens=2&close_on_reuse=1"),
    # What the gateway is told to do
    "no-queue": model("tokens=400&token_seconds=0.05", concurrency=1, max_queue=0),
    "short-wait": model("tokens=400&token_seconds=0.05", concurrency=1, max_wait_seconds=0.3),
    "one-slot": model("tokens=400&token_seconds=0.05", concurrency=1),
    "two-seconds": model("tokens=3&token_seconds=1", concurrency=1),
    "extras-drop": model("tokens=1", extra_parameters="drop"),
    "extras-refuse": model("tokens=1", extra_parameters="refuse"),
    "knows-max-tokens": model("tokens=1", backend={"max_tokens_field": "max_tokens"}),
    "knows-max-completion-tokens": model("tokens=1", backend={"max_tokens_field": "max_completion_tokens"}),
    **{
        f"fold-{name}": model(behaviour, backend={"fold_streams": True})
        for name, behaviour in (
            ("text", ""),
            ("tools", "tool_calls=2"),
            ("reasoning", "reasoning=1"),
            ("short", "tokens=3"),
        )
    },
}
"""The models of `tests/e2e`, each behind one corner of the wire contract."""
