"""`/completions` and `/embeddings`: by the official Python SDK and by hand, with all that chat has."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.wire import envelope, events, running
from tests.support.models import model
from tests.support.system import DemoBackend, System

COMPLETIONS, EMBEDDINGS = "/v1/completions", "/v1/embeddings"
BODIES: dict[str, dict[str, Any]] = {COMPLETIONS: {"prompt": "Hello"}, EMBEDDINGS: {"input": "Hello"}}
both_kinds = pytest.mark.parametrize("path", [COMPLETIONS, EMBEDDINGS])


@pytest.fixture(scope="module", params=["", "/v1"], ids=["root", "v1"])
def sdk(request: pytest.FixtureRequest, gateway: System) -> Iterator[openai.OpenAI]:
    url = gateway.base_url + str(request.param)
    with openai.OpenAI(base_url=url, api_key=gateway.token, max_retries=0, timeout=20) as client:
        yield client


def post(client: httpx.Client, path: str, name: str = "demo", **body: Any) -> httpx.Response:
    return client.post(path, json={"model": name, **BODIES[path], **body})


# --- completions --------------------------------------------------------------------------------------------------


def test_completion_by_the_sdk(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(model="short", prompt="Hello", temperature=0, user="u")
    assert [(choice.text, choice.finish_reason) for choice in answer.choices] == [("0 1 2 ", "stop")]
    assert (answer.object, answer.model) == ("text_completion", "short")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    assert answer._request_id == f"req_{answer.id.removeprefix('cmpl-')}"


def test_every_prompt_has_its_answers(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(model="short", prompt=["a", "b"], n=2, echo=True, logprobs=2, max_tokens=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["a ", "0 "]
    assert logprobs.top_logprobs is not None
    assert len(logprobs.top_logprobs[0]) == 2


@pytest.mark.parametrize("prompt", ["text", [1, 2, 3], [[1, 2], [3]]])
def test_streamed_completion_by_the_sdk(sdk: openai.OpenAI, prompt: Any) -> None:
    with sdk.completions.create(
        model="short", prompt=prompt, stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices[0].index == 0) == "0 1 2 "
    assert {(chunk.object, chunk.model) for chunk in chunks} == {("text_completion", "short")}
    assert len({(chunk.id, chunk.created) for chunk in [*chunks, last]}) == 1
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens % 3 == 0


def test_a_stream_of_completions_ends_as_chats_do(client: httpx.Client) -> None:
    chunks = events(post(client, COMPLETIONS, "short", stream=True))
    assert not any("usage" in chunk for chunk in chunks)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("name", ["finish-eos", "finish-max_tokens", "finish-tool_call", "finish-odd"])
@pytest.mark.parametrize("stream", [False, True])
def test_no_finish_reason_of_a_backends_own_leaves(client: httpx.Client, name: str, stream: bool) -> None:
    answer = post(client, COMPLETIONS, name, stream=stream)
    last = events(answer)[-1] if stream else answer.json()
    assert last["choices"][0]["finish_reason"] in ("stop", "length")


def test_a_folded_completion_equals_a_plain_one(client: httpx.Client, demo_backend: DemoBackend) -> None:
    plain, folded = (post(client, COMPLETIONS, name, n=2, logprobs=1).json() for name in ("short", "fold-short"))
    for answer in (plain, folded):
        del answer["id"], answer["created"], answer["model"]
        for choice in answer["choices"]:
            del choice["logprobs"]["text_offset"]  # the demo counts them from each chunk's own start
    assert folded == plain
    assert demo_backend.requests()[-1]["body"]["stream"] is True


def test_an_error_in_mid_stream_is_an_event(sdk: openai.OpenAI, client: httpx.Client) -> None:
    with pytest.raises(openai.APIError) as caught:
        list(sdk.completions.create(model="error-after-openai", prompt="x", stream=True))
    assert caught.value.code == "own_code"
    *_, last = events(post(client, COMPLETIONS, "error-after-openai", stream=True))
    assert last["error"]["code"] == "own_code"


# --- embeddings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gives-floats", "gives-base64"])
def test_embeddings_by_the_sdk(sdk: openai.OpenAI, name: str) -> None:
    given: list[Any] = ["text", ["a", "b", "a"], [1, 2, 3], [[1, 2], [3], [1, 2]]]
    for one in given:
        unasked = sdk.embeddings.create(model=name, input=one)  # the SDK asks for base64 by itself
        floats = sdk.embeddings.create(model=name, input=one, encoding_format="float")
        assert [item.embedding for item in unasked.data] == [item.embedding for item in floats.data]
        assert {len(item.embedding) for item in floats.data} == {8}
        assert [item.index for item in floats.data] == list(range(len(floats.data)))
        if len(floats.data) == 3:
            assert floats.data[0].embedding == floats.data[2].embedding != floats.data[1].embedding
        assert (floats.object, floats.model) == ("list", name)
        assert floats.usage.prompt_tokens > 0


def test_dimensions_reach_the_backend(sdk: openai.OpenAI) -> None:
    answer = sdk.embeddings.create(model="demo", input="x", dimensions=5, user="u")
    assert len(answer.data[0].embedding) == 5


@pytest.mark.parametrize("name", ["demo", "gives-floats", "gives-base64"])
def test_a_client_that_asks_for_no_format_gets_numbers(client: httpx.Client, name: str) -> None:
    (item,) = post(client, EMBEDDINGS, name).json()["data"]
    assert all(isinstance(number, float) for number in item["embedding"])


@pytest.mark.parametrize("name", ["demo", "gives-floats", "gives-base64"])
def test_base64_is_little_endian_32_bit_floats(client: httpx.Client, name: str) -> None:
    (numbers,) = post(client, EMBEDDINGS, name).json()["data"]
    (text,) = post(client, EMBEDDINGS, name, encoding_format="base64").json()["data"]
    raw = base64.b64decode(text["embedding"], validate=True)
    assert list(struct.unpack(f"<{len(raw) // 4}f", raw)) == numbers["embedding"]


# --- what all kinds have ------------------------------------------------------------------------------------------


@both_kinds
def test_what_reaches_the_backend_is_what_was_sent(client: httpx.Client, demo_backend: DemoBackend, path: str) -> None:
    answer = post(client, path, "fast", user="", x=[0], service_tier="priority")
    assert answer.status_code == 403, "the token may not ask for more than its own lane"
    answer = post(client, path, "fast", user="", x=[0], service_tier="flex")
    assert answer.status_code == 200
    assert answer.json()["model"] == "fast"
    record = demo_backend.requests()[-1]
    assert record["body"] == {"model": "demo", **BODIES[path], "user": "", "x": [0]}
    assert record["headers"]["x-request-id"] == answer.headers["x-request-id"]


@both_kinds
def test_extra_parameters_follow_the_model(client: httpx.Client, path: str) -> None:
    assert post(client, path, "extras-drop", x=1).status_code == 200
    error = envelope(post(client, path, "extras-refuse", x=1), 400, param=None, code=None)
    assert "x" in error["message"]


@both_kinds
def test_refusals_are_chats(gateway: System, client: httpx.Client, anonymous: httpx.Client, path: str) -> None:
    envelope(anonymous.post(path, json={}), 401, code=None)
    envelope(client.get(path), 405, code="method_not_allowed")
    envelope(client.post(path, content=b"{", headers={"content-type": "application/json"}), 400, code="invalid_json")
    envelope(client.post(path, content=b"{}"), 415, code="unsupported_media_type")
    envelope(post(client, path, "nonexistent"), 404, code="model_not_found", param="model")
    envelope(post(client, path, "unserved"), 503, code="no_worker")
    envelope(client.post(path, json={"model": "demo"}), 400, code="missing_required_parameter")
    with gateway.client(gateway.tokens["narrow"]) as narrow:
        envelope(post(narrow, path, "short"), 404, code="model_not_found")


@both_kinds
@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("status-400", 400, "own_code"), ("status-401", 500, "backend_error"), ("status-429", 429, "own_code"),
        ("status-503", 503, "own_code"), ("error-in-200", 500, "backend_error"),
        ("garbage", 500, "bad_backend_response"), ("cut-before", 503, "backend_unavailable"),
        ("stall", 504, "backend_timeout"),
    ],
)  # fmt: skip
def test_failures_of_backends_are_told_as_in_chats(
    client: httpx.Client, path: str, name: str, status: int, code: str
) -> None:
    envelope(post(client, path, name), status, code=code)


@both_kinds
def test_a_backend_that_fails_once_is_asked_again(client: httpx.Client, path: str) -> None:
    assert post(client, path, "fails-once", user=f"again {path}").status_code == 200


def test_all_kinds_share_a_models_slots(client: httpx.Client) -> None:
    with running(client, "no-queue"):
        for path in BODIES:
            envelope(post(client, path, "no-queue"), 429, code="queue_full")


def test_limits_of_a_token_count_every_kind(gateway: System) -> None:
    with gateway.client(gateway.tokens["two-of-any-kind"]) as limited:
        answers = [post(limited, path) for path in (COMPLETIONS, EMBEDDINGS, EMBEDDINGS)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    envelope(answers[-1], 429, code="rate_limit_exceeded")


@both_kinds
def test_an_idempotent_repeat_gets_the_same_answer(client: httpx.Client, path: str) -> None:
    headers = {"idempotency-key": f"kinds {path}"}
    body = {"model": "demo", **BODIES[path]}
    first, second = (client.post(path, json=body, headers=headers) for _ in range(2))
    assert first.status_code == 200
    assert json.loads(first.content) == json.loads(second.content)


def test_another_backend_answers_where_one_is_gone(
    tmp_path_factory: pytest.TempPathFactory, module_redis: Any, demo_backend: DemoBackend
) -> None:
    two = model("tokens=2")
    two["backends"] = [{"url": "http://127.0.0.1:1/v1", "weight": 1000}, *two["backends"]]
    with System(
        tmp_path_factory.mktemp("two"), redis_url=module_redis.url, backend_url=demo_backend.url, models={"two": two}
    ) as system, system.client() as client:  # fmt: skip
        assert post(client, COMPLETIONS, "two").json()["choices"][0]["text"] == "0 1 "
        assert len(post(client, EMBEDDINGS, "two").json()["data"]) == 1
