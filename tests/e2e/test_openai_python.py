"""The official Python SDK, sync and async, against the running gateway, with and without `/v1` in the base URL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel

from tests.e2e.wire import FINISH_REASONS, running
from tests.support.system import DemoBackend, System

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Person(BaseModel):
    """What `.parse()` asks for."""

    name: str
    age: int
    role: Literal["admin", "guest"]
    tags: list[str]


@pytest.fixture(scope="module", params=["", "/v1"], ids=["root", "v1"])
def base_url(request: pytest.FixtureRequest, gateway: System) -> str:
    return gateway.base_url + str(request.param)


@pytest.fixture(scope="module")
def sdk(base_url: str, gateway: System) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key=gateway.token, max_retries=0, timeout=20) as client:
        yield client


def _client(gateway: System, **options: Any) -> openai.OpenAI:
    defaults = {"base_url": gateway.base_url, "api_key": gateway.token, "max_retries": 0, "timeout": 20}
    return openai.OpenAI(**{**defaults, **options})


# --- answers ------------------------------------------------------------------------------------------------------


def test_create(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="echo", messages=HELLO, temperature=0, user="u")
    assert (answer.choices[0].message.content or "").startswith("Hello ")
    assert answer.choices[0].finish_reason in FINISH_REASONS
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0
    assert answer._request_id == f"req_{answer.id.removeprefix('chatcmpl-')}"


def test_create_streamed(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.create(model="short", messages=HELLO, stream=True) as chunks:
        received = list(chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in received) == "0 1 2 "
    assert all(chunk.usage is None for chunk in received)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in received}) == 1


def test_usage_comes_in_a_last_chunk_when_asked_for(sdk: openai.OpenAI) -> None:
    chunks = sdk.chat.completions.create(
        model="short", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    *earlier, last = chunks
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 3
    assert all(chunk.usage is None and chunk.choices for chunk in earlier)


def test_raw_response(sdk: openai.OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(model="short", messages=HELLO)
    assert raw.status_code == 200
    assert raw.headers["x-request-id"] == raw.request_id
    assert int(raw.headers["openai-processing-ms"]) >= 0
    assert raw.parse().choices[0].message.content == "0 1 2 "


def test_raw_response_of_a_stream(sdk: openai.OpenAI) -> None:
    raw = sdk.chat.completions.with_raw_response.create(model="short", messages=HELLO, stream=True)
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert [chunk.choices[0].delta.content for chunk in raw.parse()][1:4] == ["0 ", "1 ", "2 "]


def test_streaming_response(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.with_streaming_response.create(model="short", messages=HELLO) as response:
        assert response.headers["content-type"] == "application/json"
        assert response.parse().choices[0].message.content == "0 1 2 "
    with sdk.chat.completions.with_streaming_response.create(model="short", messages=HELLO, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


def test_parse_gives_the_pydantic_model(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.parse(model="demo", messages=HELLO, response_format=Person)
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_parse_gives_tool_arguments(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.parse(
        model="demo", messages=HELLO, tools=[openai.pydantic_function_tool(Person)], tool_choice="required"
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Person)


def test_stream_helper_with_two_choices(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(
        model="short", messages=HELLO, n=2, stream_options={"include_usage": True}
    ) as events:
        kinds = [event.type for event in events]
        final = events.get_final_completion()
    assert kinds.count("content.done") == 2
    assert [choice.message.content for choice in final.choices] == ["0 1 2 ", "0 1 2 "]
    assert final.usage is not None
    assert final.usage.completion_tokens == 6


def test_beta_stream_helper_parses(sdk: openai.OpenAI) -> None:
    with sdk.beta.chat.completions.stream(model="demo", messages=HELLO, response_format=Person) as events:
        final = events.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Person)


def test_stream_helper_assembles_tool_calls(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(model="tools", messages=HELLO, tools=[WEATHER]) as events:
        done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
        message = events.get_final_completion().choices[0].message
    assert [event.index for event in done] == [0, 1]
    assert message.content is None
    assert [call.id for call in message.tool_calls or []] == ["call_demo_0", "call_demo_1"]
    assert message.tool_calls is not None
    assert all(call.function.name == "get_weather" for call in message.tool_calls)


def test_tool_calls_and_logprobs_of_a_plain_answer(sdk: openai.OpenAI) -> None:
    message = sdk.chat.completions.create(model="tools", messages=HELLO, tools=[WEATHER]).choices[0].message
    assert message.content is None
    for call in message.tool_calls or []:
        assert isinstance(call, ChatCompletionMessageFunctionToolCall)
        assert '"city"' in call.function.arguments
    choice = sdk.chat.completions.create(model="short", messages=HELLO, logprobs=True, top_logprobs=2).choices[0]
    assert choice.logprobs is not None
    assert [entry.token for entry in choice.logprobs.content or []] == ["0 ", "1 ", "2 "]
    assert len((choice.logprobs.content or [])[0].top_logprobs) == 2


def test_logprobs_of_a_stream(sdk: openai.OpenAI) -> None:
    chunks = sdk.chat.completions.create(model="short", messages=HELLO, logprobs=True, top_logprobs=1, stream=True)
    logprobs = [chunk.choices[0].logprobs for chunk in chunks]
    assert [part.content[0].token for part in logprobs if part and part.content] == ["0 ", "1 ", "2 "]


def test_models_are_listed_and_retrieved(sdk: openai.OpenAI) -> None:
    assert {"demo", "fast", "vendor/family/model-7b"} <= {model.id for model in sdk.models.list()}
    assert sdk.models.retrieve("vendor/family/model-7b").id == "vendor/family/model-7b"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("no/such")


def test_extra_body_reaches_the_backend(sdk: openai.OpenAI, demo_backend: DemoBackend) -> None:
    messages: list[Any] = [{"role": "user", "content": "extra-body"}]
    sdk.chat.completions.create(model="demo", messages=messages, extra_body={"top_k": 3})
    asked = [record["body"] for record in demo_backend.requests() if record["body"].get("messages") == messages]
    assert asked[-1]["top_k"] == 3


# --- asynchronous -------------------------------------------------------------------------------------------------


async def _async_tour(client: openai.AsyncOpenAI) -> None:
    chat = client.chat.completions
    assert (await chat.create(model="short", messages=HELLO)).choices[0].message.content == "0 1 2 "
    chunks: AsyncIterator[Any] = await chat.create(model="short", messages=HELLO, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in chunks]) == "0 1 2 "
    parsed = await chat.parse(model="demo", messages=HELLO, response_format=Person)
    assert isinstance(parsed.choices[0].message.parsed, Person)
    async with chat.stream(model="short", messages=HELLO, n=2) as events:
        assert len((await events.get_final_completion()).choices) == 2
    raw = await chat.with_raw_response.create(model="short", messages=HELLO)
    assert raw.request_id
    assert raw.request_id.startswith("req_")
    async with chat.with_streaming_response.create(model="short", messages=HELLO) as response:
        assert (await response.parse()).choices[0].message.content == "0 1 2 "
    assert (await client.models.retrieve("vendor/alias")).id == "vendor/alias"
    with pytest.raises(openai.RateLimitError):
        await chat.create(model="status-429", messages=HELLO)
    answers = await asyncio.gather(*[chat.create(model="echo", messages=[{"role": "user", "content": f"n{n}"}])
                                     for n in range(8)])  # fmt: skip
    for number, answer in enumerate(answers):
        assert (answer.choices[0].message.content or "").startswith(f"n{number} ")


def test_async_client(base_url: str, gateway: System) -> None:
    async def tour() -> None:
        async with openai.AsyncOpenAI(
            base_url=base_url, api_key=gateway.token, max_retries=0, timeout=20
        ) as client:  # fmt: skip
            await _async_tour(client)

    asyncio.run(tour())


# --- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "kind", "code"),
    [
        ("status-400", openai.BadRequestError, "own_code"),
        ("status-401", openai.InternalServerError, "backend_error"),
        ("status-403", openai.InternalServerError, "backend_error"),
        ("nonexistent", openai.NotFoundError, "model_not_found"),
        ("status-422", openai.UnprocessableEntityError, "own_code"),
        ("status-429", openai.RateLimitError, "own_code"),
        ("status-500", openai.InternalServerError, "own_code"),
        ("status-503", openai.InternalServerError, "own_code"),
        ("unserved", openai.InternalServerError, "no_worker"),
        ("stall", openai.InternalServerError, "backend_timeout"),
    ],
)
def test_statuses_become_the_sdks_exceptions(
    sdk: openai.OpenAI, model: str, kind: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        sdk.chat.completions.create(model=model, messages=HELLO, stream=stream)
    error = raised.value
    assert type(error) is kind
    assert error.code == code
    assert error.type
    assert error.request_id == error.response.headers["x-request-id"]
    assert error.request_id.startswith("req_")


def test_bad_key_is_an_authentication_error(base_url: str) -> None:
    with openai.OpenAI(base_url=base_url, api_key="wrong", max_retries=2) as client:
        with pytest.raises(openai.AuthenticationError) as raised:
            client.chat.completions.create(model="demo", messages=HELLO)
        assert raised.value.code == "invalid_api_key"


def test_bad_parameter_names_itself(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        sdk.chat.completions.create(model="demo", messages=HELLO, n=129)
    assert (raised.value.param, raised.value.code) == ("n", "integer_above_max_value")


def test_sdk_waits_as_retry_after_says_and_then_succeeds(gateway: System) -> None:
    began = time.monotonic()
    with _client(gateway, max_retries=1) as client:
        answer = client.chat.completions.create(model="fails-once", messages=HELLO, user=str(began))
    assert answer.choices[0].finish_reason == "stop"
    assert time.monotonic() - began >= 1


def test_timeout_of_a_run_is_not_retried(gateway: System, demo_backend: DemoBackend) -> None:
    messages: list[Any] = [{"role": "user", "content": f"stalled {time.monotonic()}"}]
    with _client(gateway, max_retries=2) as client, pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model="stall", messages=messages)
    assert raised.value.status_code == 504
    asked = [record for record in demo_backend.requests() if record["body"].get("messages") == messages]
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("finish-length", openai.LengthFinishReasonError),
        ("finish-content_filter", openai.ContentFilterFinishReasonError),
    ],
)
def test_cut_answers_raise_on_parse(sdk: openai.OpenAI, model: str, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        sdk.chat.completions.parse(model=model, messages=HELLO, response_format=Person)
    with pytest.raises(kind), sdk.chat.completions.stream(
        model=model, messages=HELLO, response_format=Person
    ) as events:  # fmt: skip
        events.until_done()


def _read(sdk: openai.OpenAI, model: str, seen: list[str]) -> None:
    for chunk in sdk.chat.completions.create(model=model, messages=HELLO, stream=True):
        seen.append(chunk.choices[0].delta.content or "")


def _read_with_helper(sdk: openai.OpenAI, model: str, seen: list[str]) -> None:
    with sdk.chat.completions.stream(model=model, messages=HELLO) as events:
        for event in events:
            if event.type == "content.delta":
                seen.append(event.delta)


@pytest.mark.parametrize(
    ("model", "code", "kind"),
    [
        ("error-after-openai", "own_code", "server_error"),
        ("cut-mid-stream", "backend_unavailable", "service_unavailable_error"),
        ("eof-mid-stream", "bad_backend_response", "server_error"),
        ("stall-mid-stream", "backend_timeout", "timeout_error"),
    ],
)
@pytest.mark.parametrize("helper", [False, True])
def test_failure_in_mid_stream_is_an_api_error(
    sdk: openai.OpenAI, model: str, code: str, kind: str, helper: bool
) -> None:
    seen: list[str] = []
    read = _read_with_helper if helper else _read
    with pytest.raises(openai.APIError) as raised:
        read(sdk, model, seen)
    assert "".join(seen) == "0 1 2 "
    assert (raised.value.code, raised.value.type) == (code, kind)
    assert raised.value.message


# --- waiting ------------------------------------------------------------------------------------------------------


def test_slow_stream_outlives_the_sdks_read_timeout_in_one_post(gateway: System, demo_backend: DemoBackend) -> None:
    messages: list[Any] = [{"role": "user", "content": f"slow {time.monotonic()}"}]
    with _client(gateway, timeout=1.05, max_retries=2) as client:
        chunks = client.chat.completions.create(model="slow", messages=messages, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "0 1 "
    asked = [record for record in demo_backend.requests() if record["body"].get("messages") == messages]
    assert len(asked) == 1


def test_queued_stream_outlives_the_sdks_read_timeout_in_one_post(gateway: System, demo_backend: DemoBackend) -> None:
    messages: list[Any] = [{"role": "user", "content": f"queued {time.monotonic()}"}]
    with _client(gateway, timeout=0.75, max_retries=2) as client:
        with gateway.client() as other, running(other, "two-seconds"):
            chunks = client.chat.completions.create(model="two-seconds", messages=messages, stream=True)
            first = next(chunks)
        assert first.choices[0].delta.role == "assistant"
        chunks.close()
    asked = [record for record in demo_backend.requests() if record["body"].get("messages") == messages]
    assert len(asked) == 1
