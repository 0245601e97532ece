"""`/embeddings`: what becomes of a request, and of a backend's vectors in either format."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from typing import Any

import orjson
import pytest

from shared.errors import AqueductError, BadBackendResponse, InvalidRequest
from shared.jobs import TakenJob, Usage
from shared.kinds.embeddings import EMBEDDINGS
from tests.kinds.models import model_of
from tests.support.rooms import a_spec

VECTOR = [0.5, -1.0, 0.25]
TEXT = b64encode(struct.pack("<3f", *VECTOR)).decode()


def body_with(**parameters: Any) -> dict[str, Any]:
    return {"model": "m", "input": "Once", **parameters}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": "m"}, "input", "missing_required_parameter"),
        (body_with(input=None), "input", "invalid_type"),
        (body_with(input=""), "input", "string_below_min_length"),
        (body_with(input=["a", ""]), "input[1]", "string_below_min_length"),
        (body_with(input=[]), "input", "empty_array"),
        (body_with(input=[[1], []]), "input[1]", "empty_array"),
        (body_with(input=["a"] * 2049), "input", "array_above_max_length"),
        (body_with(input=[["a"]]), "input[0][0]", "invalid_type"),
        (body_with(dimensions=0), "dimensions", "integer_below_min_value"),
        (body_with(encoding_format="hex"), "encoding_format", "invalid_value"),
    ],
)
def test_a_bad_parameter_is_named(body: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        EMBEDDINGS.accept(EMBEDDINGS.validate(body), model_of())
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


def test_what_the_client_said_reaches_the_backend() -> None:
    sent = {"input": [[1, 2], [3]], "dimensions": 4, "encoding_format": "base64", "user": "", "x": 0}
    request = EMBEDDINGS.validate({**sent, "model": "m", "service_tier": "flex", "stream": True})
    assert (request.model, request.stream, request.service_tier) == ("m", False, "flex")
    accepted = EMBEDDINGS.accept(request, model_of())
    assert accepted.cost == len(accepted.body) / 4
    job = TakenJob(
        id="j1", model="own", attempt=b"1.x", spec=a_spec(options=accepted.options), body=accepted.body, queue_ms=0
    )
    called = orjson.loads(EMBEDDINGS.request(job, "own", model_of().backends[0], False))
    assert list(called.items()) == [("model", "own"), *sent.items()]


def answer_of(*vectors: object, **more: Any) -> bytes:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return orjson.dumps({"object": "list", "data": data, "model": "b", "usage": usage, **more})


def rewritten(raw: bytes, asked: str | None) -> tuple[dict[str, Any], Usage | None]:
    request = EMBEDDINGS.validate(body_with(encoding_format=asked))
    options = EMBEDDINGS.accept(request, model_of()).options
    body, usage = EMBEDDINGS.plain(raw, a_spec(public_model="llama", options=options), "j1")
    return json.loads(body), usage


@pytest.mark.parametrize(
    ("asked", "wanted"), [("float", VECTOR), ("base64", TEXT), (None, VECTOR)], ids=["float", "base64", "unasked"]
)
@pytest.mark.parametrize("given", [VECTOR, TEXT], ids=["floats", "text"])
def test_vectors_come_in_the_format_that_was_asked_for(asked: str | None, wanted: object, given: object) -> None:
    body, usage = rewritten(answer_of(given, given, x=1), asked)
    assert body == {
        "object": "list", "model": "llama", "usage": {"prompt_tokens": 3, "total_tokens": 3}, "x": 1,
        "data": [{"object": "embedding", "index": index, "embedding": wanted} for index in range(2)],
    }  # fmt: skip
    assert usage == Usage(3, 0, 3)


def test_missing_members_are_filled_in() -> None:
    body, usage = rewritten(orjson.dumps({"data": [{"embedding": [1]}, {"embedding": [2]}]}), None)
    assert body == {
        "object": "list", "model": "llama",
        "data": [{"object": "embedding", "index": index, "embedding": [index + 1]} for index in range(2)],
    }  # fmt: skip
    assert usage is None


@pytest.mark.parametrize(
    ("vector", "asked"),
    [
        *[(vector, asked) for vector in (None, 5, {}, {"a": 1}, True) for asked in ("float", "base64")],
        ("not base64!", "float"), ("not base64!", "base64"), ("AAAA", "float"),
    ],
)  # fmt: skip
def test_what_is_no_vector_is_the_backends_fault(vector: object, asked: str) -> None:
    with pytest.raises(BadBackendResponse, match="vector"):
        rewritten(answer_of(vector), asked)


@pytest.mark.parametrize("vector", [["a"], [None], [1, [2]], [10**400]], ids=["text", "null", "list", "huge"])
def test_numbers_that_are_none_cannot_become_base64(vector: object) -> None:
    raw = json.dumps({"data": [{"embedding": vector}]}).encode()
    with pytest.raises(BadBackendResponse, match="vector"):
        rewritten(raw, "base64")


@pytest.mark.parametrize("raw", [b"[]", b"{}", b'{"data":[]}', b'{"data":5}', b'{"data":[[1]]}', b"\xff"])
def test_nonsense_is_refused(raw: bytes) -> None:
    with pytest.raises(BadBackendResponse):
        rewritten(raw, None)


def test_an_error_with_status_200_is_raised() -> None:
    with pytest.raises(AqueductError, match="boom") as caught:
        rewritten(b'{"error":{"message":"boom","code":400}}', None)
    assert caught.value.status == 400


@pytest.mark.parametrize("given", [["x"] * 2049, ["x", ""], "", [], [[1], []], [[1]] * 2049])
def test_how_many_inputs_and_empty_ones_are_openais_limits_or_the_backends(given: Any) -> None:
    with pytest.raises(InvalidRequest):
        EMBEDDINGS.accept(EMBEDDINGS.validate(body_with(input=given)), model_of())
    accepted = EMBEDDINGS.accept(EMBEDDINGS.validate(body_with(input=given)), model_of(parameter_limits="backend"))
    assert orjson.loads(accepted.body)["input"] == given
    with pytest.raises(InvalidRequest) as caught:
        EMBEDDINGS.validate(body_with(input=given, dimensions=0))
    assert caught.value.param == "dimensions"


def test_a_backend_may_be_made_to_answer_in_base64_whatever_the_client_asked_for() -> None:
    model = model_of(parameters={"forced": {"encoding_format": "base64"}})
    accepted = EMBEDDINGS.accept(EMBEDDINGS.validate(body_with(encoding_format="float")), model)
    spec = a_spec(kind="embeddings", stream=False, options=accepted.options)
    job = TakenJob(id="j", model="m", attempt=b"1.x", spec=spec, body=accepted.body, queue_ms=0)
    assert orjson.loads(EMBEDDINGS.request(job, "m", model.backends[0], False))["encoding_format"] == "base64"
    vector = b64encode(struct.pack("<2f", 0.5, -1)).decode()
    body, _ = EMBEDDINGS.plain(orjson.dumps({"data": [{"embedding": vector}]}), spec, "j")
    assert orjson.loads(body)["data"][0]["embedding"] == [0.5, -1]
