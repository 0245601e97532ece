"""The official Node SDK against the running gateway; `tests/node/client.mjs` makes the calls, this judges them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.models import model
from tests.support.node import node_script
from tests.support.processes import RedisServer
from tests.support.system import DemoBackend, System

pytestmark = pytest.mark.full("node", "npm")

Report = dict[str, Any]


@pytest.fixture(scope="module", params=["", "/v1"], ids=["root", "v1"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, gateway: System) -> Report:
    """Run all calls once a base URL and return what they gave."""
    script = node_script("client.mjs", tmp_path_factory.mktemp("node"))
    command = ["node", str(script), gateway.base_url + str(request.param), gateway.token]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    answer: Report = json.loads(done.stdout)
    return answer


def _text(chunks: list[Report]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def test_create(report: Report) -> None:
    answer = report["create"]
    assert answer["choices"][0]["message"]["content"].startswith("Hello ")
    assert answer["request_id"] == "req_" + answer["id"].removeprefix("chatcmpl-")


def test_stream(report: Report) -> None:
    assert _text(report["stream"]) == "0 1 2 "
    assert not any("usage" in chunk for chunk in report["stream"])
    assert _text(report["slow_stream"]) == "0 1 "


def test_usage_on_demand(report: Report) -> None:
    *earlier, last = report["usage"]
    assert _text(earlier) == "0 1 2 "
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3


def test_stream_helper(report: Report) -> None:
    assert [choice["message"]["content"] for choice in report["helper"]["choices"]] == ["0 1 2 ", "0 1 2 "]


def test_tool_calls(report: Report) -> None:
    for message in (report["tools"]["choices"][0]["message"], report["tools_streamed"]):
        assert message["content"] is None
        assert [call["id"] for call in message["tool_calls"]] == ["call_demo_0", "call_demo_1"]


def test_raw_response(report: Report) -> None:
    raw = report["raw"]
    assert raw["content"] == "0 1 2 "
    assert raw["request_id"] == raw["header"]
    assert raw["header"].startswith("req_")


def test_completions(report: Report) -> None:
    assert [choice["text"] for choice in report["completion"]["choices"]] == ["Hello 0 1 2 "] * 2
    *chunks, last = report["completion_stream"]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "0 1 2 "
    assert last["usage"]["completion_tokens"] == 3


def test_embeddings(report: Report) -> None:
    first, second, third = (item["embedding"] for item in report["embeddings"]["data"])
    assert len(first) == 8
    assert first == third != second
    assert [len(item["embedding"]) for item in report["embeddings_as_floats"]["data"]] == [8, 8]
    assert report["embeddings"]["usage"]["prompt_tokens"] == 3


def test_models(report: Report) -> None:
    assert {"demo", "vendor/family/model-7b"} <= set(report["models"])
    assert report["model"]["id"] == "vendor/family/model-7b"


@pytest.mark.parametrize(
    ("case", "kind", "status", "code"),
    [
        ("bad_request", "BadRequestError", 400, "integer_above_max_value"),
        ("bad_input", "BadRequestError", 400, "string_below_min_length"),
        ("bad_key", "AuthenticationError", 401, "invalid_api_key"),
        ("unknown_model", "NotFoundError", 404, "model_not_found"),
        ("rate_limited", "RateLimitError", 429, "own_code"),
        ("backend_credentials", "InternalServerError", 500, "backend_error"),
        ("no_worker", "InternalServerError", 503, "no_worker"),
    ],
)
def test_statuses_become_the_sdks_exceptions(report: Report, case: str, kind: str, status: int, code: str) -> None:
    error = report[case]
    assert (error["class"], error["status"], error["code"]) == (kind, status, code)
    assert error["requestID"].startswith("req_")
    assert error["type"]


@pytest.mark.parametrize(
    ("case", "code"), [("error_mid_stream", "own_code"), ("cut_mid_stream", "backend_unavailable")]
)
def test_failure_in_mid_stream_is_an_api_error_without_status(report: Report, case: str, code: str) -> None:
    error = report[case]
    assert (error["class"], error["code"], error.get("status")) == ("APIError", code, None)
    assert "".join(filter(None, error["seen"])) == "0 1 2 "


def test_retry_after_is_waited_for_and_then_succeeds(report: Report) -> None:
    assert report["retried"]["choices"][0]["finish_reason"] == "stop"


def test_files_and_uploads(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, module_redis: RedisServer) -> None:
    script = node_script("files.mjs", tmp_path_factory.mktemp("node"))
    with System(
        tmp_path, redis_url=module_redis.url, backend_url="http://127.0.0.1:9/v1", models={"m": model()},
        settings={"storage": {"url": f"file://{tmp_path}/store"}},
    ) as system:  # fmt: skip
        command = ["node", str(script), system.base_url + "/v1", system.token]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told: Report = json.loads(done.stdout)
    assert told["listed"] == [file["id"] for file in reversed(told["made"])]
    assert (told["waited"]["status"], told["content"], told["deleted"]["deleted"]) == ("processed", "b.jsonl", True)
    assert (told["gone"], told["joined"], told["cancelled"]) == (404, "abcdef", "cancelled")
    assert (told["done"]["status"], told["refused"]) == ("completed", [400, "purpose"])


def test_batches(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, module_redis: RedisServer) -> None:
    script = node_script("batches.mjs", tmp_path_factory.mktemp("node"))
    with DemoBackend(tmp_path) as backend, System(
        tmp_path, redis_url=module_redis.url, backend_url=backend.url,
        models={"m": model("prefix=1&tokens=2")}, settings={"storage": {"url": f"file://{tmp_path}/store"}},
    ) as system:  # fmt: skip
        command = ["node", str(script), system.base_url, system.token, "m"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    told: Report = json.loads(done.stdout)
    batch = told["done"]
    assert (told["created"]["status"], batch["status"]) == ("validating", "completed")
    assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert batch["metadata"] == {"night": "1"}
    texts = {line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"] for line in told["output"]}
    assert texts == {"a": "a 0 1 ", "b": "b 0 1 "}
    assert [(line["custom_id"], line["response"]["status_code"]) for line in told["errors"]] == [("wrong", 400)]
    assert told["failed"]["status"] == "failed"
    assert told["failed"]["errors"]["data"][0]["code"] == "duplicate_custom_id"
    assert told["cancelled"]["status"] == "cancelled"
    assert told["listed"] == list(reversed(told["made"]))
    assert (told["gone"], told["window"]) == ([404, "not_found"], [400, "completion_window"])
