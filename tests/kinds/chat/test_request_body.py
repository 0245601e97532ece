"""Whatever bytes arrive, they are a request or a 400: never another exception, never an echo of the body."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import AqueductError, InvalidRequest
from shared.kinds.chat.accept import ChatRequest, accept, validate
from shared.kinds.chat.schema import PARAMETERS
from shared.kinds.common.body import parse_body
from shared.kinds.kind import Accepted
from tests.kinds.models import model_of

CANARY = "canary-7f3a"
WORKER_ADDS = {"model", "stream", "stream_options", "max_tokens", "max_completion_tokens"}
T = TypeVar("T")


def outcome(call: Callable[[], T]) -> T | AqueductError:
    try:
        return call()
    except AqueductError as error:
        return error


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"[]", b'"x"', b"null", b"1", b"{", b'{"a":1,}', b'{"a":1} x', b'{"a":NaN}', b'{"a":Infinity}',
        b'{"a":1e400}', b'{"a":[{"b":-1e999}]}', b'{"a":1' + b"0" * 400 + b".5}", b'{"a":1' + b"0" * 5000 + b"}",
        b'{"a":"\\ud800"}', b'{"a":"\xff"}', b'{"a":"\n"}', b"\xef\xbb\xbf", b"\xef\xbb\xbf" * 2 + b"{}",
        b'{"a":1,"a":2}',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"\x00", b"{'a':1}", "{}".encode("utf-16"),
    ],
)  # fmt: skip
def test_what_is_not_a_json_object_is_invalid_json(raw: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(raw)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_json", None)


@pytest.mark.parametrize(
    "template",
    ['{"%s":1,"%s":2}', '{"a":"%s"', '{"%s" 1}', '{"a":%s}', '"%s"', '["%s"]', '{"%s at line 1 column 1":1,"%s',
     '{"%s\\ud800":1}'],
)  # fmt: skip
def test_invalid_json_is_located_but_never_shown(template: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_body(template.replace("%s", CANARY).encode())
    assert CANARY not in caught.value.message


def test_one_leading_byte_order_mark_is_ignored() -> None:
    assert parse_body(b"\xef\xbb\xbf" + b'{"a":1}') == {"a": 1}


def test_invalid_json_tells_line_and_column() -> None:
    with pytest.raises(InvalidRequest, match="line 2 column 5"):
        parse_body(b'{"a":1,\n"b" 2}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "text", "role", "content", "name", "image_url", "function", "custom", "id", "format"])
        | st.text(max_size=3),
        inner, max_size=3,
    ),
    max_leaves=8,
)  # fmt: skip
ROLES = st.sampled_from(["developer", "system", "user", "assistant", "tool", "function"])
TYPES = st.sampled_from(["text", "refusal", "image_url", "input_audio", "file", "function", "custom", "json_schema"])
TYPED = st.builds(lambda kind, rest: {"type": kind, **rest}, TYPES, st.dictionaries(TYPES, JSON, max_size=2))
MESSAGE = st.builds(
    lambda role, content, rest: {"role": role, "content": content, **rest},
    ROLES, JSON | st.lists(TYPED, max_size=2), st.dictionaries(st.sampled_from(["tool_calls", "name"]), JSON | TYPED),
)  # fmt: skip
NEAR = st.builds(
    lambda messages, rest: {"model": "m", "messages": messages, **rest},
    st.lists(MESSAGE | JSON, max_size=2),
    st.dictionaries(st.sampled_from(sorted(PARAMETERS)), JSON | TYPED | st.lists(TYPED, max_size=2), max_size=3),
)


POLICIES = st.fixed_dictionaries(
    {
        "extra_parameters": st.sampled_from(["allow", "drop", "refuse"]),
        "parameter_limits": st.sampled_from(["openai", "backend"]),
    }
)


@settings(max_examples=300, deadline=None)
@given(NEAR | JSON, POLICIES)
def test_any_json_is_a_request_or_a_400(value: Any, model: dict[str, str]) -> None:
    raw = json.dumps(value).encode("utf-8", "surrogatepass")
    found = outcome(lambda: validate(parse_body(raw)))
    accepted = outcome(lambda: accept(found, model_of(**model))) if isinstance(found, ChatRequest) else found
    if isinstance(found, ChatRequest) and isinstance(accepted, Accepted):
        assert json.loads(accepted.body).keys() <= found.body.keys() - WORKER_ADDS
        assert accepted.cost >= 0
    else:
        assert isinstance(accepted, AqueductError)
        assert accepted.status == 400
        assert accepted.type == "invalid_request_error"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_a_400(raw: bytes) -> None:
    found = outcome(lambda: parse_body(raw))
    assert isinstance(found, dict) or (found.status, found.code) == (400, "invalid_json")
