"""The demo backend as its callers meet it: a real process, spoken to with httpx and the OpenAI SDK."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema_rs
import openai
import pytest

from aqueduct.demo.schema_instance import UnusableSchema, make_instance

Json = dict[str, Any]
READY = "demo backend ready on "


def start_demo(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """Start a demo backend on a free port; return it and its base URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "aqueduct.demo", "--port", "0", *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith(READY):
        process.kill()
        process.communicate()
        raise AssertionError(f"expected the ready line, saw {line!r}")
    return process, line.removeprefix(READY).strip()


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    process, url = start_demo("--record")
    with process:
        yield url
        process.kill()


@pytest.fixture
def http(base_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url, timeout=5) as client:
        client.delete(debug(base_url, "requests"))
        yield client


@pytest.fixture
def sdk(base_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="sk-demo", max_retries=0, timeout=5) as client:
        yield client


def debug(base_url: str | httpx.URL, page: str) -> str:
    return f"{str(base_url).rstrip('/').removesuffix('/v1')}/debug/{page}"


def body(model: str, text: str = "hello there", **more: Any) -> Json:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def complete(http: httpx.Client, model: str, text: str = "hello there", **more: Any) -> httpx.Response:
    return http.post("/chat/completions", json=body(model, text, **more))


def data_of(stream: bytes) -> list[str]:
    lines = stream.decode(errors="replace").replace("\r\n", "\n").split("\n")
    return [line.removeprefix("data: ") for line in lines if line.startswith("data:")]


def chunks_of(stream: bytes) -> list[Json]:
    return [json.loads(data) for data in data_of(stream) if data != "[DONE]"]


def text_of(chunks: list[Json], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.get("choices", []) if choice["index"] == index]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def read_until_broken(http: httpx.Client, model: str, **more: Any) -> bytes:
    """Return what came of a response that is expected to break."""
    received = b""
    try:
        with http.stream("POST", "/chat/completions", json=body(model, **more)) as response:
            for part in response.iter_raw():
                received += part
    except httpx.RemoteProtocolError:
        return received
    raise AssertionError(f"the response ended cleanly after {received!r}")


def state_when(http: httpx.Client, **wanted: int) -> Json:
    """Wait up to 3 s for these counters."""
    deadline = time.monotonic() + 3
    while True:
        # Not over the client's own connections: the server may be about to close them.
        state: Json = httpx.get(debug(http.base_url, "state")).json()
        if wanted.items() <= state.items():
            return state
        assert time.monotonic() < deadline, f"wanted {wanted}, saw {state}"
        time.sleep(0.01)


# Answers


def test_models_and_health_are_served(sdk: openai.OpenAI, http: httpx.Client) -> None:
    assert "demo" in [model.id for model in sdk.models.list()]
    assert http.get("/health").json() == {"status": "ok"}


def test_plain_answer_echoes_the_last_user_message(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="demo", messages=[{"role": "system", "content": "be kind"}, {"role": "user", "content": "Grüße dich"}]
    )
    assert answer.choices[0].message.content == (
        "You said: Grüße dich. This answer comes from Aqueduct's demo backend."
    )
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 4


def test_stream_opens_with_the_role_and_closes_with_finish_usage_and_done(http: httpx.Client) -> None:
    model = "demo?tokens=3"
    response = complete(http, model, stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert data_of(response.content)[-1] == "[DONE]"
    chunks = chunks_of(response.content)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks[1:4]] == ["0 ", "1 ", "2 "]
    assert chunks[4]["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}]
    assert chunks[5]["choices"] == []
    assert chunks[5]["usage"]["completion_tokens"] == 3
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks} == {
        (chunks[0]["id"], chunks[0]["created"], model)
    }


def test_choices_come_interleaved_and_are_counted_together(http: httpx.Client) -> None:
    response = complete(http, "demo?tokens=2", n=2, stream=True, stream_options={"include_usage": True})
    chunks = chunks_of(response.content)
    assert [chunk["choices"][0]["index"] for chunk in chunks[:-1]] == [0, 1] * 4
    assert text_of(chunks, 0) == text_of(chunks, 1) == "0 1 "
    assert chunks[-1]["usage"]["completion_tokens"] == 4
    assert len(complete(http, "demo?tokens=2", n=3).json()["choices"]) == 3


@pytest.mark.parametrize(
    ("model", "more", "text", "finish"),
    [
        ("demo?tokens=5", {"max_tokens": 2}, "0 1 ", "length"),
        ("demo?tokens=5", {"max_tokens": 9, "max_completion_tokens": 3}, "0 1 2 ", "length"),
        ("demo?tokens=5", {"stop": "3"}, "0 1 2 ", "stop"),
        ("demo?tokens=5", {"stop": ["4", " 2"]}, "0 1", "stop"),
        ("demo?tokens=2&prefix=1", {}, "hello there 0 1 ", "stop"),
        ("demo?tokens=1&finish=eos", {}, "0 ", "eos"),
        ("demo?huge=70000", {}, "x" * 70_000, "stop"),
    ],
)
def test_text_and_finish_reason_are_the_same_streamed_or_not(
    http: httpx.Client, model: str, more: Json, text: str, finish: str
) -> None:
    choice = complete(http, model, **more).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, finish)
    chunks = chunks_of(complete(http, model, stream=True, **more).content)
    assert (text_of(chunks), chunks[-1]["choices"][0]["finish_reason"]) == (text, finish)


def test_every_number_bears_the_mark_of_its_call(http: httpx.Client) -> None:
    marks = []
    for _ in range(2):
        words = text_of(chunks_of(complete(http, "demo?tokens=3&call_marks=1", stream=True).content)).split()
        numbers, found = zip(*(word.split(".") for word in words), strict=True)
        assert numbers == ("0", "1", "2")
        marks.append(set(found))
    assert len(marks[0]) == len(marks[1]) == 1
    assert marks[0] != marks[1]


def test_tool_calls_are_streamed_in_parts_that_the_sdk_joins(sdk: openai.OpenAI) -> None:
    parameters: dict[str, object] = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    }
    with sdk.chat.completions.stream(
        model="demo?tool_calls=2",
        messages=[{"role": "user", "content": "weather?"}],
        tools=[{"type": "function", "function": {"name": "weather", "parameters": parameters}}],
    ) as stream:
        choice = stream.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    calls = choice.message.tool_calls or []
    assert [call.function.name for call in calls] == ["weather", "weather"]
    assert len({call.id for call in calls}) == 2
    for call in calls:
        jsonschema_rs.validate({**parameters, "required": ["city", "days"]}, json.loads(call.function.arguments))


def test_required_tool_choice_calls_the_named_function(http: httpx.Client) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("first", "second")]
    named = {"type": "function", "function": {"name": "second"}}
    for choice, name in (("required", "first"), (named, "second")):
        message = complete(http, "demo", tools=tools, tool_choice=choice).json()["choices"][0]["message"]
        assert message["content"] is None
        assert [call["function"]["name"] for call in message["tool_calls"]] == [name]
    assert "tool_calls" not in complete(http, "demo", tools=tools).json()["choices"][0]["message"]


SCHEMAS: list[Json] = [
    {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 5}, "b": {"enum": ["x", "y"]}},
        "required": ["b"],
    },
    {"type": "array", "minItems": 3, "uniqueItems": True, "items": {"type": "string"}},
    {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["next"]},
    {
        "$defs": {"step": {"type": "object", "properties": {"n": {"const": 3}}, "required": ["n"]}},
        "type": "object",
        "properties": {"steps": {"type": "array", "items": {"$ref": "#/$defs/step"}}},
        "required": ["steps"],
    },
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "multipleOf": 5, "minimum": 12},
    {"type": ["null", "string"], "minLength": 12},
    {"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"type": "boolean"}}}]},
    {"type": "string", "format": "date-time"},
    {"type": "string", "maxLength": 2},
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_schema_instance_is_valid(schema: Json) -> None:
    jsonschema_rs.Draft202012Validator(schema).validate(make_instance(schema))


def test_endless_schema_is_refused() -> None:
    with pytest.raises(UnusableSchema):
        make_instance({"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]})


def doubling(keyword: str) -> Json:
    """Return a schema of 40 levels, each of which names the next one twice."""
    levels = {f"l{n}": {keyword: [{"$ref": f"#/$defs/l{n + 1}"}] * 2} for n in range(39)}
    return {"$defs": {**levels, "l39": {"type": "string"}}, "$ref": "#/$defs/l0"}


@pytest.mark.parametrize(
    "schema",
    [
        doubling("allOf"),
        {**doubling("prefixItems"), "type": "array"},
        {"type": "array", "items": {"type": "array", "items": {"type": "integer"}, "minItems": 10**9}},
        {"type": "string", "minLength": 10**11},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#"}], "properties": {f"p{n}": True for n in range(50_000)}},
    ],
    ids=["allOf", "prefixItems", "minItems", "minLength", "properties"],
)
def test_schema_that_unfolds_without_measure_is_refused(schema: Json) -> None:
    with pytest.raises(UnusableSchema, match="unfolds to more than 100,000 steps"):
        make_instance(schema)


@pytest.mark.parametrize("stream", [False, True])
def test_json_schema_answer_is_valid(http: httpx.Client, stream: bool) -> None:
    response_format = {"type": "json_schema", "json_schema": {"name": "plan", "schema": SCHEMAS[3]}}
    response = complete(http, "demo", response_format=response_format, stream=stream)
    text = text_of(chunks_of(response.content)) if stream else response.json()["choices"][0]["message"]["content"]
    jsonschema_rs.validate(SCHEMAS[3], json.loads(text))


def test_logprobs_cover_each_token(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(
        model="demo?tokens=3", messages=[{"role": "user", "content": "hi"}], logprobs=True, top_logprobs=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert [one.token for one in logprobs.content or []] == ["0 ", "1 ", "2 "]
    assert all(len(one.top_logprobs) == 2 for one in logprobs.content or [])
    with sdk.chat.completions.stream(
        model="demo?tokens=3", messages=[{"role": "user", "content": "hi"}], logprobs=True
    ) as stream:
        streamed = stream.get_final_completion().choices[0].logprobs
    assert streamed is not None
    assert [one.token for one in streamed.content or []] == ["0 ", "1 ", "2 "]


def test_refusal_and_reasoning_take_their_own_fields(http: httpx.Client) -> None:
    refused = complete(http, "demo?refusal=1").json()["choices"][0]["message"]
    assert refused["content"] is None
    assert refused["refusal"]
    chunks = chunks_of(complete(http, "demo?reasoning=1&tokens=2", stream=True).content)
    keys = [next(iter(chunk["choices"][0]["delta"]), None) for chunk in chunks[1:-1]]
    assert keys == ["reasoning_content"] * (len(keys) - 2) + ["content"] * 2
    assert len(keys) > 2


# How the stream is written


@pytest.mark.parametrize("options", ["", "&batch=4", "&split=7", "&split=1", "&crlf=1", "&spaces=1", "&comments=1"])
def test_writing_the_stream_otherwise_does_not_change_it(http: httpx.Client, options: str) -> None:
    response = complete(http, f"demo?prefix=1&tokens=20{options}", "çà et là €", stream=True)
    assert text_of(chunks_of(response.content)) == "çà et là € " + "".join(f"{n} " for n in range(20))
    assert data_of(response.content)[-1] == "[DONE]"


def test_split_cuts_events_anywhere(http: httpx.Client) -> None:
    model = body("demo?prefix=1&tokens=4&split=1", "€", stream=True)
    with http.stream("POST", "/chat/completions", json=model) as response:
        parts = list(response.iter_raw())
    assert any(part.endswith(b"\xe2") for part in parts), "no part ends inside a character"


def test_stream_dialects_show_in_the_bytes(http: httpx.Client) -> None:
    usage: Json = {"stream": True, "stream_options": {"include_usage": True}}

    def stream(options: str) -> httpx.Response:
        return complete(http, f"demo?tokens=3&{options}", **usage)

    assert b"\r\n\r\n" in stream("crlf=1").content
    assert b": ping\n\n" in stream("comments=1").content
    assert b'"index": 0, ' in stream("spaces=1").content
    assert len({chunk["created"] for chunk in chunks_of(stream("created_varies=1").content)}) > 3
    assert b'"finish_reason":null' not in stream("drop_finish_null=1").content
    assert [chunk["usage"] for chunk in chunks_of(stream("usage_null=1").content)][:-1] == [None] * 5
    assert not any(chunk.get("usage") for chunk in chunks_of(stream("no_usage=1").content))
    last = chunks_of(stream("usage_with_choice=1").content)[-1]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["usage"]["completion_tokens"] == 3


def test_pace_is_kept(http: httpx.Client) -> None:
    started = time.monotonic()
    complete(http, "demo?tokens=4&first_token_seconds=0.1&token_seconds=0.05", stream=True)
    assert time.monotonic() - started >= 0.25
    started = time.monotonic()
    complete(http, "demo?tokens=4&answer_seconds=0.15")
    assert time.monotonic() - started >= 0.15


# Faults


@pytest.mark.parametrize(
    ("options", "status", "content_type", "shown"),
    [
        ("status=429&code=busy&message=later", 429, "application/json", {"error": {
            "message": "later", "type": "rate_limit_error", "param": None, "code": "busy"}}),
        ("status=400&message=no&error_shape=llamacpp", 400, "application/json", {"error": {
            "code": 400, "message": "no", "type": "invalid_request_error"}}),
        ("status=400&message=no&error_shape=vllm_old", 400, "application/json", {
            "object": "error", "message": "no", "type": "BadRequestError", "param": None, "code": 400}),
        ("status=502&error_shape=html", 502, "text/html", None),
        ("status=500&error_shape=empty", 500, "text/plain", None),
        ("error_in_200=1&message=no", 200, "application/json", {"error": {
            "message": "no", "type": "server_error", "param": None, "code": None}}),
    ],
)  # fmt: skip
def test_errors_come_in_the_shape_asked_for(
    http: httpx.Client, options: str, status: int, content_type: str, shown: Json | None
) -> None:
    for stream in (False, True):
        response = complete(http, f"demo?{options}", stream=stream)
        assert (response.status_code, response.headers["content-type"]) == (status, content_type)
        assert shown is None or response.json() == shown


def test_retry_after_is_sent_as_written(http: httpx.Client) -> None:
    assert complete(http, "demo?status=503&retry_after=7").headers["retry-after"] == "7"


def test_only_the_first_requests_of_a_user_fail(http: httpx.Client) -> None:
    def statuses(user: str) -> list[int]:
        model = "demo?status=503&fail_times=2"
        return [complete(http, model, user=user).status_code for _ in range(3)]

    assert statuses("ann") == statuses("bob") == [503, 503, 200]


def test_cut_stream_delivers_its_chunks_and_breaks(http: httpx.Client) -> None:
    received = read_until_broken(http, "demo?tokens=9&cut_after=3", stream=True)
    assert text_of(chunks_of(received)) == "0 1 2 "
    assert read_until_broken(http, "demo?cut_before=1") == b""
    assert read_until_broken(http, "demo?tokens=9&cut_after=3").startswith(b'{"id"')
    state_when(http, open_requests=0, closed_by_client=0)


def test_unfinished_streams(http: httpx.Client) -> None:
    ended = data_of(complete(http, "demo?tokens=9&eof_after=2", stream=True).content)
    assert len(ended) == 3
    assert json.loads(ended[-1])["choices"][0]["delta"] == {"content": "1 "}
    not_done = data_of(complete(http, "demo?tokens=2&no_done=1", stream=True).content)
    assert json.loads(not_done[-1])["choices"][0]["finish_reason"] == "stop"
    failed = data_of(complete(http, "demo?tokens=9&error_after=1&message=oops", stream=True).content)
    assert len(failed) == 3
    assert json.loads(failed[-1])["error"]["message"] == "oops"


def test_broken_content(http: httpx.Client) -> None:
    events = data_of(complete(http, "demo?tokens=4&garbage=1", stream=True).content)
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(events[3])
    with pytest.raises(ValueError, match="Expecting value"):
        complete(http, "demo?garbage=1").json()
    for stream in (False, True):
        response = complete(http, "demo?tokens=4&invalid_utf8=1", stream=stream)
        assert b"\xff\xfe" in response.content
        assert complete(http, "demo?wrong_content_type=1", stream=stream).headers["content-type"] == "text/html"


def test_redirect_leads_to_an_answer(http: httpx.Client) -> None:
    response = complete(http, "demo?redirect=1")
    assert response.status_code == 307
    followed = http.post(response.headers["location"].removeprefix("/v1"), json=body("demo?redirect=1"))
    assert followed.status_code == 200


def test_idle_connection_closes_without_announcement(http: httpx.Client) -> None:
    response = complete(http, "demo?close_idle=1")
    assert response.status_code == 200
    assert "connection" not in response.headers
    state_when(http, open_connections=0)


def test_reused_connection_is_closed_instead_of_answered(http: httpx.Client) -> None:
    assert complete(http, "demo?close_on_reuse=1").status_code == 200
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        complete(http, "demo")
    assert state_when(http, open_requests=0)["total_requests"] == 1


def test_drip_sends_single_bytes(http: httpx.Client) -> None:
    with http.stream("POST", "/chat/completions", json=body("demo?drip=1", stream=True)) as response:
        parts = response.iter_raw()
        assert [next(parts), next(parts)] == [b"d", b"a"]


# The client leaves


@pytest.mark.parametrize(
    ("options", "stream"),
    [
        ("stall=1", True),
        ("first_token_seconds=60", True),
        ("tokens=1000&token_seconds=0.01", True),
        ("tokens=5&stall_after=2", True),
        ("answer_seconds=60", False),
        ("tokens=100000", True),
    ],
)
def test_leaving_client_is_noticed_at_once(base_url: str, http: httpx.Client, options: str, stream: bool) -> None:
    # a large prompt: a server that stops reading behind it would not see the client go
    request = body(f"demo?{options}", "x" * 300_000, stream=stream)
    with (
        contextlib.suppress(httpx.ReadTimeout),
        httpx.Client(base_url=base_url, timeout=httpx.Timeout(5, read=0.2)) as leaver,
        leaver.stream("POST", "/chat/completions", json=request) as response,
    ):
        next(response.iter_raw())
    left_at = time.time()
    state_when(http, open_requests=0, closed_by_client=1, open_connections=0)
    [record] = http.get(debug(base_url, "requests")).json()
    assert record["closed_by_client"]
    assert record["closed_at"] < left_at + 2
    assert record["ended_at"] is not None
    assert record["chunks_sent"] < 100_000


def test_finished_answer_is_not_a_client_that_left(base_url: str, http: httpx.Client) -> None:
    with httpx.Client(base_url=base_url) as client:
        complete(client, "demo", stream=True)
        complete(client, "demo")
    state = state_when(http, open_connections=0, open_requests=0)
    assert (state["total_requests"], state["closed_by_client"]) == (2, 0)


# Bookkeeping and refusals


def test_requests_are_recorded_with_headers_and_body(http: httpx.Client) -> None:
    sent = body("demo?tokens=3", metadata={"k": "v"}, stream=True)
    http.post("/chat/completions", json=sent, headers={"Authorization": "Bearer sk-1", "X-Trace": "t"})
    [record] = http.get(debug(http.base_url, "requests")).json()
    assert record["model"] == "demo?tokens=3"
    assert record["body"] == sent
    assert record["chunks_sent"] == 3
    assert (record["headers"]["authorization"], record["headers"]["x-trace"]) == ("Bearer sk-1", "t")
    assert record["started_at"] <= record["ended_at"]
    assert not record["closed_by_client"]


@pytest.mark.parametrize(
    ("request_body", "named"),
    [
        (body("demo?speed=9"), "speed"),
        (body("demo?tokens=many"), "tokens"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "model"),
        ({"model": "demo"}, "messages"),
        (body("demo", n=0), "n"),
    ],
)
def test_bad_request_names_what_is_wrong(http: httpx.Client, request_body: Json, named: str) -> None:
    response = http.post("/chat/completions", json=request_body)
    assert response.status_code == 400
    assert f"`{named}`" in response.json()["error"]["message"] or response.json()["error"]["param"] == named


def test_other_paths_methods_and_bodies_are_refused(http: httpx.Client) -> None:
    assert http.get("/nothing").status_code == 404
    assert http.get("/chat/completions").status_code == 405
    assert http.post("/chat/completions", content=b"{").status_code == 400


def test_options_may_be_percent_encoded(http: httpx.Client) -> None:
    response = complete(http, f"demo?status=418&message={quote('a & b')}")
    assert response.json()["error"]["message"] == "a & b"


def test_options_may_stand_in_the_body_where_a_gateway_takes_no_odd_names(http: httpx.Client) -> None:
    asked = body("demo?tokens=2") | {"demo": "tokens=3"}
    assert http.post("/chat/completions", json=asked).json()["choices"][0]["message"]["content"] == "0 1 2 "
    refused = http.post("/chat/completions", json=body("demo") | {"demo": ["tokens=3"]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "demo")
    assert "Unknown option `nothing`" in http.post("/chat/completions", json=body("demo") | {"demo": "nothing"}).text


def test_sigterm_ends_it_cleanly_even_with_an_open_stream() -> None:
    process, url = start_demo()
    try:
        with httpx.stream(
            "POST", f"{url}/chat/completions", json=body("demo?tokens=3&stall_after=1", stream=True)
        ) as one:
            next(one.iter_raw())
            assert httpx.get(debug(url, "requests")).status_code == 404
            process.send_signal(signal.SIGHUP)  # says nothing, and ends nothing
            assert httpx.get(debug(url, "requests")).status_code == 404
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=5)
        assert (process.returncode, rest) == (0, "")
    finally:
        process.kill()
