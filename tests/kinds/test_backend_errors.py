"""Errors in every server's shape become one OpenAI error without addresses, keys or prompts."""

from __future__ import annotations

import json

import pytest

from shared.errors import BackendTimeout, BackendUnreachable, BadBackendResponse
from shared.kinds.common.backend_errors import backend_error, error_in_answer

OPENAI = {"error": {"message": "bad thing", "type": "invalid_request_error", "param": "top_p", "code": "invalid_value"}}


@pytest.mark.parametrize("payload", [OPENAI, json.dumps(OPENAI).encode(), [OPENAI]])
def test_openai_errors_pass(payload: object) -> None:
    error = backend_error(payload, 400)
    assert (error.status, error.type, error.code, error.param, error.message) == (
        400, "invalid_request_error", "invalid_value", "top_p", "bad thing",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"error": {"code": 400, "message": "m", "type": "BadRequestError"}}, "m"),
        ({"object": "error", "message": "m", "type": "BadRequestError", "code": 40303}, "m"),
        ({"error": "m"}, "m"),
        ({"detail": "m"}, "m"),
        ({"detail": [{"loc": ["body", "n"], "msg": "too big", "input": "CANARY"}]}, "n: too big"),
        (b"m", "m"),
        ({"error": {"message": "[{'msg': 'x', 'input': {'messages': 'CANARY'}}]"}}, "[{'msg': 'x', [redacted]"),
    ],
)
def test_other_shapes_are_read_and_numbers_are_no_codes(payload: object, message: str) -> None:
    error = backend_error(payload, 422)
    assert (error.status, error.type, error.code, error.message) == (422, "invalid_request_error", None, message)


@pytest.mark.parametrize("payload", [b"<html>502 at 10.0.0.1</html>", b"", b"\xff\xfe", None, [], 3, {"error": {}}])
@pytest.mark.parametrize("status", [302, 400, 401, 404, 418, 429, 500, 502, 504])
def test_any_body_with_any_status_is_an_error_with_a_message(payload: object, status: int) -> None:
    error = backend_error(payload, status)
    assert error.message
    assert "html" not in error.message
    assert 400 <= error.status < 600


@pytest.mark.parametrize("status", [401, 403, 404])
def test_the_operators_mistakes_are_not_the_clients(status: int) -> None:
    error = backend_error({"error": {"message": "key sk-abc", "code": "invalid_api_key"}}, status)
    assert (error.status, error.type, error.code) == (500, "server_error", "backend_error")
    assert "tell the operator" in error.message
    assert "sk-abc" not in error.message


def test_rate_limits_keep_retry_after() -> None:
    error = backend_error({"error": {"message": "slow down", "code": "tpm"}}, 429, 7.0)
    assert (error.status, error.type, error.code, error.retry_after) == (429, "rate_limit_error", "tpm", 7.0)


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 10 tokens",
        "the request exceeds the available context size",
        "prompt is too long: 9",
    ],
)
def test_too_long_prompts_are_told_as_openai_does(message: str) -> None:
    error = backend_error({"error": {"message": message, "type": "exceed_context_size_error", "code": 400}}, 400)
    assert (error.type, error.code, error.param) == ("invalid_request_error", "context_length_exceeded", "messages")


@pytest.mark.parametrize(
    ("status", "kind"),
    [(408, BackendTimeout), (504, BackendTimeout), (502, BackendUnreachable), (503, BackendUnreachable),
     (301, BadBackendResponse)],
)  # fmt: skip
def test_gateway_statuses_have_their_class(status: int, kind: type[Exception]) -> None:
    assert type(backend_error({"error": {"message": "m"}}, status)) is kind


def test_other_server_errors_are_500_with_the_backends_code() -> None:
    error = backend_error({"error": {"message": "m", "code": "cuda_oom"}}, 507)
    assert (error.status, error.type, error.code) == (500, "server_error", "cuda_oom")
    assert backend_error({"error": {"message": "m", "code": 500}}, 500).code == "backend_error"


@pytest.mark.parametrize(
    "secret",
    ["http://vllm.internal:8000/v1", "vllm-0:8000", "10.1.2.3", "10.1.2.3:80", "[fe80::1]:99", "localhost:8080",
     "sk-proj-abc123", "Bearer abc.def", "hf_abcdefghijklmnop", "api_key=abcdef", "vllm.svc.cluster.local"],
)  # fmt: skip
def test_addresses_and_keys_are_redacted(secret: str) -> None:
    message = backend_error({"error": {"message": f"cannot use {secret} now"}}, 500).message
    assert message == "cannot use [redacted] now"


def test_long_messages_are_cut() -> None:
    assert len(backend_error({"error": "word " * 100_000}, 500).message) == 2_000


def test_an_error_inside_an_answer_has_its_own_status() -> None:
    assert error_in_answer({"error": {"message": "m", "code": 429}}).status == 429
    assert error_in_answer({"error": {"message": "m", "code": "429"}}).status == 429
    assert error_in_answer({"error": {"message": "m", "code": 7}}).status == 500


@pytest.mark.parametrize("name", ["message", "code", "param"])
def test_half_a_surrogate_pair_can_be_told(name: str) -> None:
    error = backend_error({"error": {"message": "no", name: "bad_\ud83d"}}, 400, None)
    assert error.status == 400
    assert b"bad_?" in error.to_wire()
