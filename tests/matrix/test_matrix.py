"""Every server's answers × plain, streamed and folded, through the whole gateway, read by the OpenAI SDKs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, APIStatusError, ContentFilterFinishReasonError, LengthFinishReasonError, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.matrix import reading
from tests.matrix.cases import WAYS, Case, cases, read
from tests.matrix.server import serving
from tests.support.processes import RedisServer
from tests.support.system import System

CASES = cases()
PAIRS = [pytest.param(case, way, id=f"{case.server}-{case.name}-{way}") for case in CASES for way in WAYS]
NODE = Path(__file__).parent.parent / "node"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer) -> Iterator[System]:
    """One gateway with two models a server: as it is, and folded."""
    with serving(CASES) as url:
        models: dict[str, dict[str, Any]] = {}
        for name in {case.server for case in CASES}:
            backend = {"url": f"{url}/{name}", "model": "m"}
            models[name] = {"backends": [backend], "max_attempts": 1}
            models[f"{name}-folded"] = {"backends": [{**backend, "fold_streams": True}], "max_attempts": 1}
        folder = tmp_path_factory.mktemp("matrix")
        with System(folder, redis_url=module_redis.url, backend_url=url, models=models) as system:
            yield system


@pytest.fixture(scope="module")
def sdk(gateway: System) -> Iterator[OpenAI]:
    with OpenAI(base_url=gateway.base_url, api_key=gateway.token, max_retries=0, timeout=20) as client:
        yield client


def asked(case: Case, way: str) -> dict[str, Any]:
    """Return a request whose answer is the case's."""
    model = f"{case.server}-folded" if way == "folded" else case.server
    request: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": case.name}]}
    return {**request, "stream_options": {"include_usage": True}} if way == "streamed" else request


@pytest.mark.parametrize(("case", "way"), PAIRS)
def test_the_python_sdk_reads_it_with_strict_types(sdk: OpenAI, case: Case, way: str) -> None:
    told = streamed(sdk, case) if way == "streamed" else whole(sdk, case, way)
    assert told == wanted(case.expect(way), told)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{case.server}-{case.name}") for case in CASES if case.is_strict]
)
def test_the_python_sdks_stream_helper_reads_it(sdk: OpenAI, case: Case) -> None:
    expected = case.expect("streamed")
    ends = {choice.get("finish") for choice in expected.get("choices", [expected])}
    with sdk_fails("error" in expected, ends), sdk.chat.completions.stream(**asked(case, "streamed")) as stream:
        told = reading.of_answer(stream.get_final_completion().model_dump())
        assert told == wanted(expected, told)


@contextmanager
def sdk_fails(with_error: bool, ends: set[str | None]) -> Iterator[None]:
    """Expect what the helper raises for an error, and for ends that it takes for one; nothing for others."""
    if with_error:
        expected: Any = pytest.raises(APIError)
    elif ends & {"length", "content_filter"}:
        expected = pytest.raises((LengthFinishReasonError, ContentFilterFinishReasonError))
    else:
        expected = nullcontext()
    with expected:
        yield


@pytest.mark.full("node", "npm")
def test_the_node_sdk_reads_all_of_it(gateway: System) -> None:
    if not (NODE / "node_modules").exists():
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=NODE, check=True, capture_output=True)
    asking = [{"way": way, "body": asked(case, way)} for case in CASES for way in WAYS]
    run = subprocess.run(
        ["node", "matrix.mjs", gateway.base_url, gateway.token],
        cwd=NODE, input=json.dumps(asking), capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    read_by_node = json.loads(run.stdout)
    wrong = []
    for told, (case, way) in zip(read_by_node, [(case, way) for case in CASES for way in WAYS], strict=True):
        found = reading_of_node(told)
        if found != wanted(case.expect(way), found):
            wrong.append((case.server, case.name, way, found, case.expect(way)))
    assert not wrong


def reading_of_node(told: dict[str, Any]) -> dict[str, Any]:
    """Return what the Node client printed in the terms of `expect`."""
    if "error" in told:
        seen = reading.of_chunks(told["chunks"]) if told.get("chunks") else {}
        return failed(told["error"].get("status"), told["error"].get("code"), told["error"]["message"], seen)
    return reading.of_chunks(told["chunks"]) if "chunks" in told else reading.of_answer(told["answer"])


def whole(sdk: OpenAI, case: Case, way: str) -> dict[str, Any]:
    try:
        raw = sdk.chat.completions.with_raw_response.create(**asked(case, way))
    except APIStatusError as error:
        return failed(error.status_code, error.code, error.message, {})
    if case.is_strict:
        ChatCompletion.model_validate_json(raw.content, strict=True)
    return reading.of_answer(json.loads(raw.content))


def streamed(sdk: OpenAI, case: Case) -> dict[str, Any]:
    chunks: list[dict[str, Any]] = []
    try:
        for chunk in sdk.chat.completions.create(**asked(case, "streamed"), stream=True):
            chunks.append(chunk.model_dump(exclude_unset=True, warnings=case.is_strict))
            if case.is_strict:
                ChatCompletionChunk.model_validate(chunks[-1], strict=True)
    except APIStatusError as error:
        return failed(error.status_code, error.code, error.message, {})
    except APIError as error:
        return failed(None, error.code, error.message, reading.of_chunks(chunks))
    return reading.of_chunks(chunks)


def failed(status: int | None, code: str | None, message: str, seen: dict[str, Any]) -> dict[str, Any]:
    """Return a failure in the terms of `expect`."""
    return {**seen, "error": {"status": status, "code": code, "message": message}}


def wanted(expected: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """Return what should have been read: what `expected` does not name stays open in usage and error."""
    full = dict(expected)
    if "usage" in told and "usage" not in expected:
        full["usage"] = told["usage"]
    if "error" in expected and "error" in told:
        error = expected["error"]
        found = told["error"]
        full["error"] = {**found, **{name: error[name] for name in ("status", "code") if name in error}}
        if error["message"] not in found["message"]:
            full["error"]["message"] = f"…{error['message']}…"
    return full


def test_a_file_without_the_form_is_told() -> None:
    with pytest.raises(ValueError, match="before the first case"):
        read("odd", b"-- stream\ndata: x\n\n")
    with pytest.raises(ValueError, match="has an `expect`"):
        read("odd", b"== one\n-- stream\ndata: x\n\n")
    with pytest.raises(ValueError, match="unknown options"):
        read("odd", b"== one\nexpect {}\n-- stream lf\ndata: x\n\n")
