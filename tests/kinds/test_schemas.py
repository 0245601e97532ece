"""The schemas of `/completions` and `/embeddings` agree with the OpenAI SDK's types and with their own descriptions."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

import jsonschema_rs
import pytest
from openai.types.completion_create_params import CompletionCreateParamsStreaming
from openai.types.embedding_create_params import EmbeddingCreateParams

from api.components import openapi_components
from shared.errors import InvalidRequest
from shared.kinds import KINDS
from shared.kinds.completions.schema import PARAMETERS as COMPLETION_PARAMETERS
from shared.kinds.embeddings.schema import PARAMETERS as EMBEDDING_PARAMETERS
from tests.kinds.models import model_of
from tests.support.processes import ROOT

OURS = {"service_tier"}
TEXTS_AND_TOKENS: list[tuple[object, bool]] = [
    ("hi", True), (["a", "b"], True), ([1, 2], True), ([[1], [2, 3]], True), ([], False), ([[]], False), (5, False),
    (["a", 1], False), ([1, "a"], False), ([[1], "a"], False), ([{"a": 1}], False), ([-1], False), ([1.5], False),
    ([True], False), ([None], False), ({}, False), ([[1, 2], [-1]], False),
]  # fmt: skip


def accepts(kind: str, body: dict[str, Any]) -> bool:
    try:
        made = KINDS[kind]
        made.accept(made.validate(body), model_of())
    except InvalidRequest:
        return False
    return True


def described(name: str) -> jsonschema_rs.Draft202012Validator:
    document = json.loads(json.dumps(openapi_components()).replace("#/components/schemas/", "#/$defs/"))
    return jsonschema_rs.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": document})


def test_parameters_are_those_of_the_openai_sdk_and_the_lane() -> None:
    assert get_type_hints(CompletionCreateParamsStreaming).keys() | OURS == COMPLETION_PARAMETERS
    assert get_type_hints(EmbeddingCreateParams).keys() | OURS == EMBEDDING_PARAMETERS


@pytest.mark.parametrize(("given", "is_good"), TEXTS_AND_TOKENS)
def test_text_or_tokens_alone_or_in_a_list(given: object, is_good: bool) -> None:
    assert accepts("completions", {"model": "m", "prompt": given}) is is_good
    assert accepts("embeddings", {"model": "m", "input": given}) is is_good
    assert described("CreateCompletionRequest").is_valid({"model": "m", "prompt": given}) is is_good
    assert described("CreateEmbeddingRequest").is_valid({"model": "m", "input": given}) is is_good


@pytest.mark.parametrize(
    "parameters",
    [
        {}, {"prompt": None}, {"prompt": ""}, {"best_of": 20}, {"best_of": 21}, {"best_of": 1, "n": None}, {"n": 0},
        {"logprobs": 5}, {"logprobs": 6}, {"logprobs": True}, {"max_tokens": 0}, {"max_tokens": -1}, {"echo": 1},
        {"stop": ["a"] * 5}, {"stop": None}, {"suffix": "x"}, {"suffix": 1}, {"seed": 2**63}, {"top_k": 5},
        {"logit_bias": {"50256": -100}}, {"logit_bias": {"x": 5}}, {"user": None}, {"service_tier": "flex"},
        {"service_tier": "x"}, {"model": 1},
    ],
)  # fmt: skip
def test_completions_are_described_as_they_are_validated(parameters: dict[str, Any]) -> None:
    body = {"model": "m", "prompt": "x", **parameters}
    assert described("CreateCompletionRequest").is_valid(body) == accepts("completions", body)


@pytest.mark.parametrize(
    "parameters",
    [
        {}, {"dimensions": 1}, {"dimensions": 0}, {"dimensions": 1.5}, {"encoding_format": "base64"}, {"user": "u"},
        {"encoding_format": "hex"}, {"encoding_format": None}, {"input": ""}, {"input": ["a", ""]}, {"model": None},
        {"input": ["a"] * 2048}, {"input": ["a"] * 2049}, {"input": [[1]] * 2049}, {"input": [1] * 5000},
        {"service_tier": "priority"}, {"truncate_prompt_tokens": 5},
    ],
)  # fmt: skip
def test_embeddings_are_described_as_they_are_validated(parameters: dict[str, Any]) -> None:
    body = {"model": "m", "input": "x", **parameters}
    assert described("CreateEmbeddingRequest").is_valid(body) == accepts("embeddings", body)


def test_a_kind_is_a_small_folder() -> None:
    """`docs/how-to/add-a-kind.md` says so."""
    files = (ROOT / "shared" / "kinds" / "embeddings").glob("*.py")
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) < 200


def test_a_kind_has_one_place_and_one_name() -> None:
    assert [name for name, kind in KINDS.items() if kind.name != name] == []
    assert len({kind.path for kind in KINDS.values()}) == len(KINDS)
    assert len({kind.description.operation_id for kind in KINDS.values()}) == len(KINDS)
