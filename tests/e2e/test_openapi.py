"""The OpenAPI description is true: whatever it allows is answered as it says, and never with a 5xx."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.paths import both
from shared.kinds import KINDS
from tests.support.system import System

CHECKS: list[CheckFunction] = [status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = [
    ("GET", "/models"), ("GET", "/models/{model}"), ("GET", "/healthz"), ("GET", "/readyz"),
    ("GET", "/batches"), ("POST", "/batches"), ("GET", "/batches/{batch_id}"), ("POST", "/batches/{batch_id}/cancel"),
    ("POST", "/batches/{batch_id}/retry"), ("GET", "/batches/{batch_id}/results"),
    ("GET", "/chat/completions"), ("GET", "/chat/completions/{completion_id}"),
    ("POST", "/chat/completions/{completion_id}"), ("DELETE", "/chat/completions/{completion_id}"),
    ("GET", "/chat/completions/{completion_id}/messages"), ("GET", "/chat/completions/{completion_id}/events"),
]  # fmt: skip
JOBS = [("POST", path) for kind in KINDS.values() for path in both(kind.path)]


def _run(system: System, method: str, path: str, examples: int, change: Any = None) -> set[int]:
    schema = schemathesis.openapi.from_url(f"{system.base_url}/openapi.json")
    seen: set[int] = set()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[path][method].as_strategy())
    def check(case: Any) -> None:
        if change is not None:
            change(case)
        response = case.call(headers={"authorization": f"Bearer {system.token}"})
        seen.add(response.status_code)
        assert response.status_code < 500, (response.status_code, response.text)
        case.validate_response(response, checks=CHECKS)

    check()
    return seen


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_reading_operations_answer_as_described(system: System, method: str, path: str) -> None:
    assert _run(system, method, path, 15)


@pytest.mark.parametrize(("method", "path"), JOBS)
def test_every_kind_answers_as_described(system: System, method: str, path: str) -> None:
    def use_the_demo_model(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "demo"

    seen = _run(system, method, path, 60, use_the_demo_model)
    assert 200 in seen, "no generated request was good enough to be answered"


def test_every_status_of_the_specification_is_described(system: System) -> None:
    document = httpx.get(f"{system.base_url}/openapi.json").json()
    for _, path in JOBS:
        answers = document["paths"][path]["post"]["responses"]
        for status in (200, 400, 401, 403, 404, 413, 415, 422, 429, 500, 503, 504):
            assert str(status) in answers
