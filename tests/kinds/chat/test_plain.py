"""Whole answers keep their bytes but for id and model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.errors import AqueductError, BadBackendResponse
from shared.jobs import Usage
from shared.kinds.chat.plain import rewrite_completion

BODY: dict[str, Any] = {
    "id": "cmpl-1",
    "object": "chat.completion",
    "created": 5,
    "model": "meta/Llama",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}


def _rewrite(body: object, **dump: Any) -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body, **dump).encode()
    rewritten: dict[str, Any] = json.loads(rewrite_completion(raw, job_id="j1", public_model="llama")[0])
    return rewritten


@pytest.mark.parametrize("content", ["hi", '"id":"cmpl-1"', '{"id": "cmpl-1", "model": "meta/Llama"}', "\u2028é😀"])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("indent", [None, 2])
def test_only_id_and_model_change(content: str, order: int, indent: int | None) -> None:
    message = {"role": "assistant", "content": content, "tool_calls": [{"id": "cmpl-1", "model": "meta/Llama"}], "x": 1}
    body = {**BODY, "choices": [{**BODY["choices"][0], "message": message}], "extra": {"id": "e"}}
    body = dict(list(body.items())[::order])
    assert _rewrite(body, indent=indent) == {**body, "id": "chatcmpl-j1", "model": "llama"}


def test_other_bytes_stay() -> None:
    raw = json.dumps(BODY).encode().replace(b'"hi"', b'"\\u0041\\/"')
    rewritten, usage = rewrite_completion(raw, job_id="j1", public_model="llama")
    assert b'"\\u0041\\/"' in rewritten
    assert usage == Usage(1, 2, 3)


def test_missing_members_are_filled_in() -> None:
    body = _rewrite({"choices": BODY["choices"]})
    assert (body["id"], body["object"], body["model"]) == ("chatcmpl-j1", "chat.completion", "llama")


def test_finish_reasons_are_mapped() -> None:
    body = {**BODY, "choices": [{**BODY["choices"][0], "finish_reason": "eos"}]}
    assert _rewrite(body)["choices"][0]["finish_reason"] == "stop"
    with pytest.raises(BadBackendResponse, match="aborted"):
        _rewrite({**BODY, "choices": [{"finish_reason": "abort"}]})


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{}", b'{"choices":[]}', b'{"choices":[1]}', b"data: {}", b'"\xff"']
)
def test_nonsense_is_refused(body: bytes) -> None:
    with pytest.raises(BadBackendResponse):
        _rewrite(body)


def test_an_error_with_status_200_is_raised() -> None:
    with pytest.raises(AqueductError, match="boom") as caught:
        _rewrite({"error": {"message": "boom", "code": 400}})
    assert caught.value.status == 400
