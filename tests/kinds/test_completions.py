"""`/completions`: what becomes of a request, and of a backend's answer, whole, streamed and folded."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from shared.errors import AqueductError, BadBackendResponse, InvalidRequest
from shared.jobs import TakenJob, Usage
from shared.kinds.completions import COMPLETIONS
from tests.kinds.models import model_of
from tests.support.rooms import a_spec

CANARY = "canary-7f3a"
DONE = b"data: [DONE]\n\n"


def body_with(**parameters: Any) -> dict[str, Any]:
    return {"model": "m", "prompt": "Once", **parameters}


def refusal(body: dict[str, Any]) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        COMPLETIONS.accept(COMPLETIONS.validate(body), model_of())
    return caught.value


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": "m"}, "prompt", "missing_required_parameter"),
        ({"prompt": "x"}, "model", "missing_required_parameter"),
        (body_with(prompt=5), "prompt", "invalid_type"),
        (body_with(prompt=[]), "prompt", "empty_array"),
        (body_with(prompt=["a", 1]), "prompt[1]", "invalid_type"),
        (body_with(prompt=[[1], [CANARY]]), "prompt[1][0]", "invalid_type"),
        (body_with(prompt=[1, -2]), "prompt[1]", "integer_below_min_value"),
        (body_with(stop=["a", 1]), "stop[1]", "invalid_type"),
        (body_with(logprobs=6), "logprobs", "integer_above_max_value"),
        (body_with(best_of=2, n=3), "best_of", "invalid_value"),
        (body_with(stream_options={}), "stream_options", "invalid_value"),
        (body_with(stream=True, stream_options={"x": "a" * 2000}), "stream_options", "invalid_value"),
        (body_with(logit_bias={CANARY: 1}), "logit_bias", "invalid_value"),
    ],
)
def test_a_bad_parameter_is_named_and_no_prompt_shown(body: dict[str, Any], param: str, code: str) -> None:
    error = refusal(body)
    assert (error.status, error.param, error.code) == (400, param, code)
    assert CANARY not in error.message


def test_a_wrong_prompt_is_told_in_words() -> None:
    assert refusal(body_with(prompt=5)).message == (
        "Invalid type for 'prompt': expected one of a string, array of strings, array of tokens or array of token "
        "arrays, but got an integer instead."
    )


def test_what_the_client_said_reaches_the_backend_in_its_order() -> None:
    sent = {"suffix": "", "echo": False, "temperature": 0, "prompt": [[1, 2], [3]], "logprobs": 0, "best_of": 2, "n": 1}
    request = COMPLETIONS.validate(
        {**sent, "model": "m", "user": "u", "stream": True, "stream_options": {"include_usage": True, "x": 1},
         "service_tier": "flex", "stop": None}
    )  # fmt: skip
    assert (request.model, request.stream, request.service_tier) == ("m", True, "flex")
    accepted = COMPLETIONS.accept(request, model_of())
    assert list(orjson.loads(accepted.body).items()) == [*sent.items(), ("user", "u")]
    spec = a_spec(kind="completions", options=accepted.options)
    job = TakenJob(id="j1", model="own", attempt=b"1.x", spec=spec, body=accepted.body, queue_ms=0)
    backend = model_of().backends[0]
    streamed = orjson.loads(COMPLETIONS.request(job, "own", backend, True))
    assert streamed == {
        "model": "own", "stream": True, "stream_options": {"x": 1, "include_usage": True}, **sent, "user": "u",
    }  # fmt: skip
    assert orjson.loads(COMPLETIONS.request(job, "own", backend, False)) == {"model": "own", **sent, "user": "u"}


def test_a_null_prompt_is_a_prompt() -> None:
    accepted = COMPLETIONS.accept(COMPLETIONS.validate(body_with(prompt=None, suffix=None)), model_of())
    assert orjson.loads(accepted.body) == {"prompt": None}


@pytest.mark.parametrize(
    ("parameters", "tokens"),
    [
        ({"max_tokens": 10}, 10), ({"max_tokens": 10, "n": 3}, 30), ({"max_tokens": 10, "best_of": 4}, 40),
        ({"max_tokens": 0}, 0), ({}, 50), ({"max_tokens": 10, "prompt": ["a", "b"]}, 20),
        ({"max_tokens": 10, "prompt": [1, 2, 3]}, 10), ({"max_tokens": 10, "prompt": [[1], [2], [3]], "n": 2}, 60),
    ],
)  # fmt: skip
def test_the_cost_counts_every_answer_that_is_asked_for(parameters: dict[str, Any], tokens: int) -> None:
    accepted = COMPLETIONS.accept(COMPLETIONS.validate(body_with(**parameters)), model_of(default_max_tokens=50))
    assert accepted.cost == len(accepted.body) / 4 + tokens


def test_extra_parameters_follow_the_models_policy() -> None:
    request = COMPLETIONS.validate(body_with(top_k=3))
    assert orjson.loads(COMPLETIONS.accept(request, model_of()).body) == {"prompt": "Once", "top_k": 3}
    assert orjson.loads(COMPLETIONS.accept(request, model_of(extra_parameters="drop")).body) == {"prompt": "Once"}
    with pytest.raises(InvalidRequest, match="top_k"):
        COMPLETIONS.accept(request, model_of(extra_parameters="refuse"))


def chunk(text: str = "", finish: str | None = None, index: int = 0, **extra: Any) -> dict[str, Any]:
    choice = {"index": index, "text": text, "logprobs": None, "finish_reason": finish}
    return {"id": "cmpl-b", "object": "text_completion", "created": 7, "model": "b", "choices": [choice], **extra}


USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
STREAM = [chunk("Hel", usage=None), chunk("lo"), chunk(finish="eos"), {**chunk(), "choices": [], "usage": USAGE}]


def events(values: list[dict[str, Any]]) -> bytes:
    return b"".join(b"data: %b\n\n" % orjson.dumps(value) for value in values) + DONE


def streamed(values: list[dict[str, Any]], **options: Any) -> tuple[list[Any], Usage | None]:
    assert COMPLETIONS.stream is not None
    subject = COMPLETIONS.stream(a_spec(kind="completions", public_model="llama", options=options), "j1")
    data = events(values)
    out = b"".join(subject.feed(data[at : at + 50]) for at in range(0, len(data), 50)) + subject.finish()
    assert out.endswith(DONE)
    return [json.loads(one[6:]) for one in out.removesuffix(DONE).split(b"\n\n") if one], subject.usage


def test_a_stream_is_rewritten() -> None:
    chunks, usage = streamed(STREAM)
    assert {(one["id"], one["object"], one["created"], one["model"]) for one in chunks} == {
        ("cmpl-j1", "text_completion", 7, "llama")
    }
    assert [(one["choices"][0]["text"], one["choices"][0]["finish_reason"]) for one in chunks] == [
        ("Hel", None), ("lo", None), ("", "stop"),
    ]  # fmt: skip
    assert not any("usage" in one for one in chunks)
    assert usage == Usage(1, 2, 3)


def test_usage_comes_last_when_asked_for() -> None:
    *earlier, last = streamed(STREAM, include_usage=True)[0]
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert [one.get("usage") for one in earlier] == [None] * 3


@pytest.mark.parametrize(
    ("given", "public"), [("max_tokens", "length"), ("tool_use", "stop"), ("safety", "content_filter")]
)
def test_finish_reasons_are_those_of_completions(given: str, public: str) -> None:
    chunks, _ = streamed([chunk("a"), chunk(finish=given)])
    assert chunks[-1]["choices"][0]["finish_reason"] == public


@pytest.mark.parametrize(
    ("values", "kind"),
    [([chunk("a")], None), ([{"error": {"message": "boom", "code": 400}}], "boom"), ([{"choices": [5]}], "object")],
)
def test_a_stream_that_fails_is_an_error(values: list[dict[str, Any]], kind: str | None) -> None:
    assert COMPLETIONS.stream is not None
    subject = COMPLETIONS.stream(a_spec(), "j1")
    with pytest.raises(AqueductError, match=kind):
        assert subject.feed(events(values).removesuffix(DONE)) + subject.finish()


def test_a_folded_stream_equals_the_plain_answer() -> None:
    def logprobs(token: str, offset: int) -> dict[str, Any]:
        return {"tokens": [token], "token_logprobs": [-0.5], "top_logprobs": [{token: -0.5}], "text_offset": [offset]}

    values = [chunk("Hel"), chunk("x", index=1), chunk("lo"), chunk(finish="length", index=1), chunk(finish="eos")]
    values[0]["choices"][0]["logprobs"], values[2]["choices"][0]["logprobs"] = logprobs("Hel", 0), logprobs("lo", 3)
    assert COMPLETIONS.fold is not None
    folder = COMPLETIONS.fold(a_spec(public_model="llama"), "j1")
    folder.feed(events([*values, STREAM[-1]]))
    assert json.loads(folder.result()) == {
        "id": "cmpl-j1", "object": "text_completion", "created": 7, "model": "llama", "usage": USAGE,
        "choices": [
            {"index": 0, "text": "Hello", "finish_reason": "stop", "logprobs": {
                "tokens": ["Hel", "lo"], "token_logprobs": [-0.5, -0.5], "top_logprobs": [{"Hel": -0.5}, {"lo": -0.5}],
                "text_offset": [0, 3]}},
            {"index": 1, "text": "x", "finish_reason": "length", "logprobs": None},
        ],
    }  # fmt: skip
    assert folder.usage == Usage(1, 2, 3)


def test_a_plain_answer_is_rewritten() -> None:
    answer = {**chunk("hi", "eos"), "usage": USAGE, "x": 1}
    body, usage = COMPLETIONS.plain(orjson.dumps(answer), a_spec(public_model="llama"), "j1")
    assert json.loads(body) == {**answer, "id": "cmpl-j1", "model": "llama", "choices": chunk("hi", "stop")["choices"]}
    assert usage == Usage(1, 2, 3)
    with pytest.raises(BadBackendResponse):
        COMPLETIONS.plain(b'{"choices":[]}', a_spec(), "j1")


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": []}, "stop"),
        ({"prompt": []}, "prompt"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"logprobs": 20}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
    ],
)
def test_limits_that_servers_do_not_share_are_openais_or_the_backends(parameters: dict[str, Any], param: str) -> None:
    body = body_with(**parameters)
    assert refusal(body).param == param
    model = model_of(parameter_limits="backend", default_max_tokens=50)
    accepted = COMPLETIONS.accept(COMPLETIONS.validate(body), model)
    assert orjson.loads(accepted.body) == {name: value for name, value in body.items() if name != "model"}
    assert accepted.cost == len(accepted.body) / 4 + 50
    with pytest.raises(InvalidRequest) as caught:
        COMPLETIONS.validate({**body, "temperature": 9})
    assert caught.value.param == "temperature"
