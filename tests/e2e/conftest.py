"""The gateway of the contract tests: one for the run, with a model for each corner, narrow tokens and small limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.models import WIRE_MODELS
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System

HOLD_SECONDS = 2.0
MAX_BODY_BYTES = 1024 * 1024
CORS_ORIGIN = "https://app.example"

TOKENS: dict[str, dict[str, Any]] = {
    "narrow": {"models": ["fast", "vendor/family/model-7b"]},
    "expired": {"expires_at": "2024-01-01T00:00:00+00:00"},
    "two-a-minute": {"requests_per_minute": 2},
    "two-of-any-kind": {"requests_per_minute": 2},
    "fast-lane": {"requests_per_minute": 6000, "tokens_per_minute": 1_000_000},
    "one-job": {"concurrent_jobs": 1},
}


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, demo_backend: DemoBackend) -> Iterator[System]:
    """The running system over a Redis of its own: its models have the names of other tests' models."""
    with (
        RedisServer(tmp_path_factory.mktemp("gateway-redis")) as redis_server,
        System(
            tmp_path_factory.mktemp("gateway"),
            redis_url=redis_server.url,
            backend_url=demo_backend.url,
            models=WIRE_MODELS,
            tokens=TOKENS,
            workers=[[name for name in WIRE_MODELS if name != "unserved"]],
            settings={
                "api": {
                    "hold_headers_seconds": HOLD_SECONDS,
                    "keep_alive_seconds": 0.3,
                    "max_body_bytes": MAX_BODY_BYTES,
                    "cors_origins": [CORS_ORIGIN],
                }
            },
        ) as running,
    ):
        yield running


@pytest.fixture(scope="session")
def client(gateway: System) -> Iterator[httpx.Client]:
    """A client with the token that may use every model. One for the run: making one takes longer than most tests."""
    with gateway.client() as opened:
        yield opened


@pytest.fixture(scope="session")
def anonymous(gateway: System) -> Iterator[httpx.Client]:
    """A client without any token."""
    with httpx.Client(base_url=gateway.base_url, timeout=30) as opened:
        yield opened
