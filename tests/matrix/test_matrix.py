"""Every server's answers × plain, streamed and folded, through the whole gateway, read by the OpenAI SDKs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIError, APIStatusError, ContentFilterFinishReasonError, LengthFinishReasonError, OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import create_model

from tests.e2e.wire import FINISH_REASONS, events
from tests.matrix import reading
from tests.matrix.cases import OTHER, Case, cases, read
from tests.matrix.server import OTHER_FORM, serving
from tests.support.chat import CHAT
from tests.support.node import node_script
from tests.support.processes import RedisServer
from tests.support.streams import completion_id, read_events, resumed
from tests.support.system import System

CASES = cases()
PAIRS = [pytest.param(case, way, id=f"{case.server}-{case.name}-{way}") for case in CASES for way in case.ways]
STRICT = [pytest.param(case, id=f"{case.server}-{case.name}") for case in CASES if case.is_strict]
GOOD = [pytest.param(case, id=f"{case.server}-{case.name}") for case in CASES if "error" not in case.expect("streamed")]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_redis: RedisServer) -> Iterator[System]:
    """One gateway with four models a server: as it is, folded, and each in the form that was not asked for."""
    with serving(CASES) as url:
        models: dict[str, dict[str, Any]] = {}
        for name in {case.server for case in CASES}:
            for form, suffix in (("as-asked", ""), (OTHER_FORM, "-other")):
                backend = {"url": f"{url}/{name}/{form}", "model": "m"}
                models[f"{name}{suffix}"] = {"backends": [backend], "max_attempts": 1}
                models[f"{name}-folded{suffix}"] = {"backends": [{**backend, "fold_streams": True}], "max_attempts": 1}
        folder = tmp_path_factory.mktemp("matrix")
        with System(
            folder, redis_url=module_redis.url, backend_url=url, models=models,
            settings={"storage": {"url": f"file://{folder}/store"}},
        ) as system:  # fmt: skip
            yield system


@pytest.fixture(scope="module")
def sdk(gateway: System) -> Iterator[OpenAI]:
    with OpenAI(base_url=gateway.base_url, api_key=gateway.token, max_retries=0, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
def client(gateway: System) -> Iterator[httpx.Client]:
    with gateway.client() as opened:
        yield opened


def asked(case: Case, way: str) -> dict[str, Any]:
    """Return a request whose answer is the case's."""
    model = case.server + ("-folded" if way.startswith("folded") else "") + ("-other" if way in OTHER else "")
    request: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": case.name}]}
    return {**request, "stream_options": {"include_usage": True}} if way.startswith("streamed") else request


@pytest.mark.parametrize(("case", "way"), PAIRS)
def test_the_python_sdk_reads_it_with_strict_types(sdk: OpenAI, case: Case, way: str) -> None:
    told = streamed(sdk, case, way) if way.startswith("streamed") else whole(sdk, case, way)
    assert told == wanted(case.expect(way), told)


@pytest.mark.parametrize("case", STRICT)
def test_the_python_sdks_stream_helper_reads_it(sdk: OpenAI, case: Case) -> None:
    expected = case.expect("streamed")
    ends = {choice.get("finish") for choice in expected.get("choices", [expected])}
    with (
        sdk_fails("error" in expected, ends),
        sdk.chat.completions.stream(**asked(case, "streamed"), **parsed_as(expected)) as stream,
    ):
        answer = stream.get_final_completion()
        told = reading.of_answer(answer.model_dump(warnings=False))
        assert told == wanted(expected, told)
        check_parsed(answer.choices[0].message.parsed, expected)


@pytest.mark.parametrize("way", ["plain", "folded"])
@pytest.mark.parametrize("case", STRICT)
def test_the_python_sdk_parses_it(sdk: OpenAI, case: Case, way: str) -> None:
    expected = case.expect(way)
    ends = {choice.get("finish") for choice in expected.get("choices", [expected])}
    with sdk_fails("error" in expected, ends):
        answer = sdk.chat.completions.parse(**asked(case, way), **parsed_as(expected))
        told = reading.of_answer(answer.model_dump(warnings=False))
        assert told == wanted(expected, told)
        check_parsed(answer.choices[0].message.parsed, expected)


def parsed_as(expected: dict[str, Any]) -> dict[str, Any]:
    """Return the format to ask for where the case says what is parsed."""
    fields: dict[str, Any] = {name: (type(value), ...) for name, value in expected.get("parsed", {}).items()}
    return {"response_format": create_model("Parsed", **fields)} if fields else {}


def check_parsed(parsed: Any, expected: dict[str, Any]) -> None:
    assert (parsed.model_dump() if parsed is not None else None) == expected.get("parsed")


@pytest.mark.parametrize("case", GOOD)
def test_its_stream_keeps_the_contract(gateway: System, client: httpx.Client, case: Case) -> None:
    chunks = events(client.post(CHAT, json={**asked(case, "streamed"), "stream": True}))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {case.server}
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert isinstance(chunks[0]["created"], int)
    told_usage = [chunk for chunk in chunks if chunk.get("usage") is not None]
    assert told_usage in ([], chunks[-1:])
    assert not told_usage or told_usage[0]["choices"] == []
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    for choice in choices:
        assert type(choice["index"]) is int
        assert isinstance(choice["delta"], dict)
        assert choice["finish_reason"] in (None, *FINISH_REASONS)
    check_calls(choices)


@pytest.mark.parametrize("case", GOOD)
def test_its_stored_stream_is_kept_as_the_answer_it_told(client: httpx.Client, case: Case) -> None:
    with client.stream("POST", CHAT, json={**asked(case, "streamed"), "stream": True, "store": True}) as answer:
        told, made = [*read_events(answer)], completion_id(answer)
    chunks = [json.loads(event.data) for event in told[:-1]]
    found = client.get(f"{CHAT}/{made}").raise_for_status().json()
    assert reading.of_answer(found) == reading.of_chunks(chunks)
    assert resumed(client, made, after=0) == told[1:]


def check_calls(choices: list[dict[str, Any]]) -> None:
    """Check that each call begins with an id of its own, its sort and its name, and is the next number."""
    ids: dict[tuple[int, int], str] = {}
    for choice in choices:
        for call in choice["delta"].get("tool_calls") or ():
            place = (choice["index"], call["index"])
            if place not in ids:
                assert call["index"] == len([one for one, _ in ids if one == choice["index"]])
                assert call["type"] == "function"
                assert call["function"]["name"]
                ids[place] = call["id"]
            assert (call.get("id") or ids[place]) == ids[place]
    assert all(ids.values())
    assert len(set(ids.values())) == len(ids)


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
def test_the_node_sdk_reads_all_of_it(gateway: System, tmp_path: Path) -> None:
    pairs = [(case, way) for case in CASES for way in (*case.ways, *(["helper"] if case.is_strict else []))]
    asking = [{"way": way, "body": asked(case, way.replace("helper", "streamed"))} for case, way in pairs]
    command = ["node", str(node_script("matrix.mjs", tmp_path)), gateway.base_url, gateway.token]
    run = subprocess.run(command, input=json.dumps(asking), capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    wrong = []
    for told, (case, way) in zip(json.loads(run.stdout), pairs, strict=True):
        expected = case.expect(way.replace("helper", "streamed"))
        found = reading_of_node(told)
        if way == "helper":
            # It leaves out what OpenAI's types do not know and what stood in front of an error, and it takes the
            # logprobs of a first chunk twice.
            left = {"error"} if "error" in expected else expected.keys() - {"reasoning", "images", "logprobs", "parsed"}
            found = {name: found[name] for name in found if name in left}
            expected = {name: expected[name] for name in left}
        if found != wanted(expected, found):
            wrong.append((case.server, case.name, way, found, expected))
    assert not wrong, "\n".join(map(str, wrong))


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


def streamed(sdk: OpenAI, case: Case, way: str) -> dict[str, Any]:
    chunks: list[dict[str, Any]] = []
    try:
        for chunk in sdk.chat.completions.create(**asked(case, way), stream=True):
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
    """Return what should have been read: what `expected` does not name stays open in an error."""
    full = {name: expected[name] for name in expected if name != "parsed"}
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
