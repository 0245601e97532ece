"""What reaches the backend, to the byte where it matters; models, tokens and their limits; browsers."""

from __future__ import annotations

import contextlib
import json
import re
import time
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import CORS_ORIGIN
from tests.e2e.wire import MESSAGES, asked_of, chat, envelope, message_of, running, stream, text_of
from tests.support.chat import CHAT, chat_body
from tests.support.system import DemoBackend, System
from tests.support.waiting import wait_until

GO_DURATION = re.compile(r"(\d+m)?(\d+(\.\d+)?s)|\d+ms")

# --- what the backend is asked ------------------------------------------------------------------------------------


def test_nothing_is_invented(client: httpx.Client, demo_backend: DemoBackend) -> None:
    plain = asked_of(demo_backend, client)
    assert plain.keys() == {"model", "messages"}
    assert plain["model"] == "demo"
    streamed = asked_of(demo_backend, client, stream=True)
    assert streamed.keys() == {"model", "messages", "stream", "stream_options"}
    assert streamed["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "sent",
    [
        {"temperature": 0}, {"temperature": 0.0, "top_p": 0}, {"seed": 0}, {"seed": -(2**63)}, {"logprobs": False},
        {"presence_penalty": 0, "frequency_penalty": -0.0}, {"user": ""}, {"stop": ""}, {"logit_bias": {}},
        {"metadata": {}}, {"metadata": {"a": ""}}, {"logprobs": True, "top_logprobs": 0},
        {"parallel_tool_calls": False}, {"store": False}, {"tools": []}, {"top_k": 0, "min_p": 0.0, "x": ""},
        {"metadata": {"team": "red"}, "user": "u-1", "verbosity": "low", "safety_identifier": "s"},
        {"reasoning_effort": "none", "prompt_cache_key": "k", "service_tier": "auto"},
        {"prediction": {"type": "content", "content": ""}},
        {"chat_template_kwargs": {"enable_thinking": False}, "structured_outputs": {"regex": ".*"}},
    ],
    ids=json.dumps,
)  # fmt: skip
@pytest.mark.parametrize("streamed", [False, True])
def test_parameters_arrive_as_they_were_sent(
    client: httpx.Client, demo_backend: DemoBackend, sent: dict[str, Any], streamed: bool
) -> None:
    asked = asked_of(demo_backend, client, stream=streamed, **sent)
    assert {name: asked[name] for name in sent} == sent
    assert [name for name in asked if name in sent] == list(sent)
    assert asked.keys() - sent.keys() <= {"model", "messages", "stream", "stream_options"}


def test_null_means_not_given(client: httpx.Client, demo_backend: DemoBackend) -> None:
    nulls: dict[str, Any] = dict.fromkeys(
        ("temperature", "stop", "max_tokens", "metadata", "seed", "logit_bias", "n", "stream")
    )
    assert asked_of(demo_backend, client, **nulls).keys() == {"model", "messages"}


def test_order_of_properties_is_kept(client: httpx.Client, demo_backend: DemoBackend) -> None:
    names = ["zeta", "alpha", "mid", "10", "9"]
    schema = {"type": "object", "required": names, "properties": {name: {"type": "string"} for name in names}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    answer_format = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    asked = asked_of(demo_backend, client, tools=tools, response_format=answer_format, tool_choice="none")
    assert list(asked["tools"][0]["function"]["parameters"]["properties"]) == names
    assert list(asked["response_format"]["json_schema"]["schema"]["properties"]) == names


def test_messages_of_every_role_and_part_arrive_unchanged(client: httpx.Client, demo_backend: DemoBackend) -> None:
    messages = [
        {"role": "developer", "content": "Be brief.", "name": "boss"},
        {"role": "system", "content": [{"type": "text", "text": ""}]},
        {"role": "user", "content": [
            {"type": "text", "text": "look"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}},
            {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
        ]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "", "reasoning_content": "hm"},
    ]  # fmt: skip
    assert asked_of(demo_backend, client, messages=messages)["messages"][:-1] == messages


@pytest.mark.parametrize("sent", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("model", "arrives"),
    [
        ("demo", None), ("knows-max-tokens", "max_tokens"), ("knows-max-completion-tokens", "max_completion_tokens"),
    ],
)  # fmt: skip
def test_token_limit_arrives_under_the_name_that_the_backend_knows(
    client: httpx.Client, demo_backend: DemoBackend, model: str, arrives: str | None, sent: str
) -> None:
    asked = asked_of(demo_backend, client, model, **{sent: 17})
    limits = {name: asked[name] for name in ("max_tokens", "max_completion_tokens") if name in asked}
    assert limits == {arrives or sent: 17}


def test_token_limit_ends_the_answer(client: httpx.Client) -> None:
    choice = chat(client, max_completion_tokens=1).json()["choices"][0]
    assert choice["finish_reason"] == "length"


def test_include_usage_reaches_the_backend_even_when_not_asked_for(
    client: httpx.Client, demo_backend: DemoBackend
) -> None:
    options = {"include_usage": False, "include_obfuscation": False}
    asked = asked_of(demo_backend, client, stream=True, stream_options=options)
    assert asked["stream_options"] == {"include_usage": True, "include_obfuscation": False}


@pytest.mark.parametrize("model", ["demo", "extras-drop"])
def test_extra_parameters_are_allowed_or_dropped(client: httpx.Client, demo_backend: DemoBackend, model: str) -> None:
    asked = asked_of(demo_backend, client, model, top_k=5, temperature=0)
    assert asked["temperature"] == 0
    assert ("top_k" in asked) == (model == "demo")


def test_parts_and_members_that_openai_does_not_know_reach_the_backend(
    client: httpx.Client, demo_backend: DemoBackend
) -> None:
    parts = [{"type": "video_url", "video_url": {"url": "data:,"}}, {"type": "text", "text": "x", "cache_control": {}}]
    message = {"role": "user", "content": parts, "name": None}
    asked = asked_of(demo_backend, client, messages=[message], stream=False, tools=None)
    assert asked["messages"][0] == message
    assert asked["stream"] is False
    assert "tools" not in asked


def test_extra_parameters_may_be_refused_by_name(client: httpx.Client) -> None:
    answer = chat(client, "extras-refuse", top_k=5, min_p=0.1)
    error = envelope(answer, 400, type="invalid_request_error", param=None, code=None)
    assert "top_k" in error["message"]
    assert "min_p" in error["message"]
    assert chat(client, "extras-refuse", seed=1).status_code == 200


def test_clients_token_and_headers_stay_with_the_gateway(client: httpx.Client, demo_backend: DemoBackend) -> None:
    headers = {"openai-organization": "org-1", "cookie": "a=b", "x-client-request-id": "mine"}
    answer = chat(client, messages=[{"role": "user", "content": "header-check"}], headers=headers)
    sent = demo_backend.seen("header-check")[0]["headers"]
    assert not sent.keys() & {"authorization", "cookie", "openai-organization"}
    assert sent["x-request-id"] == answer.headers["x-request-id"]


# --- how backends behave ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["close-idle", "close-on-reuse"])
@pytest.mark.parametrize("streamed", [False, True])
def test_backend_that_closes_kept_connections_is_no_failure(client: httpx.Client, model: str, streamed: bool) -> None:
    for _ in range(4):
        assert chat(client, model, stream=streamed).status_code == 200


@pytest.mark.parametrize("case", ["text", "tools", "reasoning"])
def test_folded_stream_equals_the_plain_answer(client: httpx.Client, demo_backend: DemoBackend, case: str) -> None:
    body: dict[str, Any] = {"n": 2, "logprobs": True, "top_logprobs": 1, "seed": 1}
    plain = {"text": "demo", "tools": "tools", "reasoning": "reasoning"}[case]
    folded, expected = (chat(client, model, **body).json() for model in (f"fold-{case}", plain))
    for answer in (folded, expected):
        for name in ("id", "created", "model"):
            assert answer.pop(name)
    assert folded == expected
    assert asked_of(demo_backend, client, f"fold-{case}")["stream"] is True


def test_answer_has_the_public_identity(client: httpx.Client) -> None:
    answer = chat(client)
    body = answer.json()
    assert body["id"] == "chatcmpl-" + answer.headers["x-request-id"].removeprefix("req_")
    assert (body["object"], body["model"]) == ("chat.completion", "demo")
    assert abs(body["created"] - time.time()) < 60
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["usage"]["total_tokens"] > 0


# --- models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_both_paths_are_served(client: httpx.Client, prefix: str) -> None:
    body = {"model": "short", "messages": MESSAGES}
    assert message_of(client.post(f"{prefix}/chat/completions", json=body))["content"] == "0 1 2 "
    listed = client.get(f"{prefix}/models").json()
    assert listed["object"] == "list"
    for model in listed["data"]:
        assert model.keys() >= {"id", "object", "created", "owned_by"}
    assert client.get(f"{prefix}/models/short").json()["id"] == "short"


@pytest.mark.parametrize("name", ["vendor/family/model-7b", "vendor/alias", "fast"])
def test_slashes_and_aliases_work_everywhere(client: httpx.Client, name: str) -> None:
    assert name in [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert client.get(f"/v1/models/{name}").json()["id"] == name
    assert client.get(f"/v1/models/{name.replace('/', '%2F')}").json()["id"] == name
    assert chat(client, name).json()["model"] == name
    assert {chunk["model"] for chunk in stream(client, name)} == {name}


def test_unknown_model_cannot_be_retrieved(client: httpx.Client) -> None:
    envelope(client.get("/v1/models/no/such"), 404, code="model_not_found", param="model")


# --- tokens -------------------------------------------------------------------------------------------------------


def test_token_of_some_models_sees_and_uses_no_other(gateway: System) -> None:
    with gateway.client(gateway.tokens["narrow"]) as narrow:
        seen = {model["id"] for model in narrow.get("/v1/models").json()["data"]}
        assert seen == {"demo", "fast", "vendor/alias", "vendor/family/model-7b"}
        assert chat(narrow, "demo").status_code == 200
        forbidden = envelope(chat(narrow, "short"), 404, code="model_not_found", param="model")
        unknown = envelope(chat(narrow, "nonsense"), 404, code="model_not_found", param="model")
        assert forbidden["message"].replace("short", "nonsense") == unknown["message"]
        envelope(narrow.get("/v1/models/short"), 404, code="model_not_found")


def test_requests_per_minute_end_in_429_with_the_headers_that_clients_parse(gateway: System) -> None:
    with gateway.client(gateway.tokens["two-a-minute"]) as limited:
        answers = [chat(limited, "short") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
    for answer in answers:
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert GO_DURATION.fullmatch(answer.headers["x-ratelimit-reset-requests"])
    error = envelope(answers[-1], 429, type="rate_limit_error", code="rate_limit_exceeded", param=None)
    # Just behind the burst it is 60 to 61 s, more than the SDK for Node believes: the refusal is held back meanwhile.
    assert 55 <= int(answers[-1].headers["retry-after"]) <= 60
    assert 55_000 <= int(answers[-1].headers["retry-after-ms"]) < 60_000
    assert "2 requests per minute" in error["message"]


def test_streams_carry_the_rate_limit_headers_too(gateway: System) -> None:
    with gateway.client(gateway.tokens["fast-lane"]) as limited:
        answer = chat(limited, "short", stream=True)
    assert answer.headers["x-ratelimit-limit-requests"] == "6000"
    assert GO_DURATION.fullmatch(answer.headers["x-ratelimit-reset-requests"])
    assert answer.headers["x-ratelimit-limit-tokens"] == "1000000"
    assert 990_000 < int(answer.headers["x-ratelimit-remaining-tokens"]) < 1_000_000
    assert GO_DURATION.fullmatch(answer.headers["x-ratelimit-reset-tokens"])


def test_tokens_concurrent_jobs_are_bounded_and_given_back(gateway: System) -> None:
    with gateway.client(gateway.tokens["one-job"]) as limited:
        with running(limited, "one-slot"):
            answer = chat(limited, "short")
            envelope(answer, 429, type="rate_limit_error", code="rate_limit_exceeded", param=None)
            assert 1 <= int(answer.headers["retry-after"]) <= 60
        wait_until(lambda: chat(limited, "short").status_code == 200, 5, "the place to be given back")


# --- browsers -----------------------------------------------------------------------------------------------------


def _preflight(client: httpx.Client, origin: str) -> httpx.Response:
    wanted = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    return client.options(CHAT, headers={"origin": origin, **wanted})


def test_preflight_needs_no_token_where_an_origin_is_allowed(anonymous: httpx.Client) -> None:
    answer = _preflight(anonymous, CORS_ORIGIN)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == CORS_ORIGIN
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"].lower()
    assert answer.headers["x-request-id"].startswith("req_")
    refused = _preflight(anonymous, "https://other.example")
    assert "access-control-allow-origin" not in refused.headers


def test_refusals_can_be_read_by_the_browser_too(anonymous: httpx.Client) -> None:
    headers = {"origin": CORS_ORIGIN, "content-type": "application/json"}
    answer = anonymous.post(CHAT, content="{}", headers=headers)
    envelope(answer, 401)
    assert answer.headers["access-control-allow-origin"] == CORS_ORIGIN
    exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert exposed >= {"x-request-id", "retry-after", "retry-after-ms", "x-should-retry"}


def test_without_the_setting_no_origin_is_allowed(system: System) -> None:
    with httpx.Client(base_url=system.base_url) as browser:
        answer = _preflight(browser, CORS_ORIGIN)
    assert answer.status_code == 204
    assert not [name for name in answer.headers if name.startswith("access-control-")]


# --- many at once -------------------------------------------------------------------------------------------------


def test_answers_of_many_streams_are_not_mixed_up(gateway: System) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(gateway.client()) for _ in range(8)]
        streams = []
        for number, client in enumerate(clients):
            body = chat_body("echo", f"caller-{number}", stream=True)
            streams.append(stack.enter_context(client.stream("POST", CHAT, json=body)))
        texts = [answer.read().decode() for answer in streams]
    for number, text in enumerate(texts):
        payloads = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: {")]
        assert text_of([json.loads(payload) for payload in payloads]).startswith(f"caller-{number} ")
