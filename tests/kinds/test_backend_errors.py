"""Errors in every server's shape become one OpenAI error without addresses, keys or prompts."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from pydantic import SecretStr

from shared.backend_settings import BackendSettings
from shared.errors import BackendTimeout, BackendUnreachable, BadBackendResponse
from shared.kinds.common.backend_errors import backend_error, error_in_answer, is_error, without_secrets
from shared.kinds.common.secrets import Secrets, secrets_of

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


@pytest.mark.parametrize("name", ["message", "param"])
def test_half_a_surrogate_pair_can_be_told(name: str) -> None:
    error = backend_error({"error": {"message": "no", name: "bad_\ud83d"}}, 400, None)
    assert error.status == 400
    assert b"bad_?" in error.to_wire()


REASON = "top_k must be positive"
SHAPES: list[object] = [
    {"error": {"message": REASON}},
    {"object": "error", "message": REASON},
    {"error": REASON},
    {"detail": REASON},
    {"detail": {"message": REASON}},
    {"detail": [{"msg": REASON}]},
    {"message": {"detail": [{"msg": REASON}]}},
    {"errors": [{"message": REASON}]},
    {"errors": [REASON]},
    {"error": {"message": {"error": REASON}}},
    {"error": [{"message": REASON}]},
    {"msg": REASON},
    {"error_msg": REASON},
    {"title": "Bad Request", "detail": REASON},
    [{"error": {"message": REASON}}],
    json.dumps(REASON).encode(),
    REASON.encode(),
]


@pytest.mark.parametrize("shape", SHAPES, ids=repr)
def test_the_reason_of_a_refusal_is_told_whatever_shape_it_has(shape: object) -> None:
    payload = shape if isinstance(shape, bytes) else json.dumps(shape).encode()
    error = backend_error(payload, 400)
    assert (error.status, error.message) == (400, REASON)


def test_several_reasons_are_told_with_their_places_and_without_what_they_quote() -> None:
    detail = [
        {"loc": ["body", "messages", 0], "msg": "too odd", "input": "CANARY"},
        {"loc": ["body", "n"], "msg": "too big", "ctx": {"error": "CANARY"}},
    ]
    error = backend_error({"object": "error", "message": {"detail": detail}}, 422)
    assert (error.message, error.param) == ("messages.0: too odd; n: too big", "messages.0")


@pytest.mark.parametrize("end", [30, 60])
def test_json_that_was_cut_is_not_shown(end: int) -> None:
    body = json.dumps({"error": {"given": "CANARY" * 20}}).encode()[:end]
    assert "CANARY" not in backend_error(body, 400).message


def test_no_control_character_of_a_backend_is_passed_on() -> None:
    error = backend_error({"error": {"message": "a\x1b[2Jb\rc\u2028d\u202ee", "param": "p\x07", "code": "x\ny"}}, 400)
    assert (error.message, error.param, error.code) == ("a [2Jb c d e", "p", None)


@pytest.mark.parametrize("code", ["a b", "x\nCRITICAL forged", "c" * 65, "", "é", "bad_\ud83d", "a=b", 5, True, {}])
def test_a_code_that_is_no_word_is_left_out(code: object) -> None:
    assert backend_error({"error": {"message": "m", "code": code}}, 400).code is None
    assert backend_error({"error": {"message": "m", "code": "Bad.word-1_x"}}, 400).code == "Bad.word-1_x"


@pytest.mark.parametrize(
    "told",
    [{"code": "insufficient_quota"}, {"type": "insufficient_quota", "code": None}, {"code": "billing_not_active"}],
)
def test_a_spent_budget_is_final(told: dict[str, str]) -> None:
    error = backend_error({"error": {"message": "no money", **told}}, 429, 3.0)
    assert (error.status, error.should_retry, error.retry_after) == (429, False, None)
    assert error.code == (told["code"] or "insufficient_quota")
    assert backend_error({"error": {"message": "m", "code": "tpm"}}, 429).should_retry is None


CONTEXT = "This model's maximum context length is 10 tokens."


@pytest.mark.parametrize(
    ("told", "param", "code"),
    [
        ({"message": CONTEXT, "param": "max_tokens"}, "max_tokens", None),
        ({"message": CONTEXT, "param": "max_completion_tokens", "code": "invalid_value"}, "max_completion_tokens",
         "invalid_value"),
        ({"message": f"'max_tokens' or 'max_completion_tokens' is too large: 99. {CONTEXT}"}, "max_tokens", None),
        ({"message": CONTEXT, "param": "input_tokens"}, "input_tokens", "context_length_exceeded"),
        ({"message": CONTEXT, "param": "messages[2].content"}, "messages[2].content", "context_length_exceeded"),
        ({"message": CONTEXT, "param": "prompt"}, "prompt", "context_length_exceeded"),
        ({"message": CONTEXT}, "messages", "context_length_exceeded"),
    ],
)  # fmt: skip
def test_only_a_prompt_that_is_too_long_is_told_as_one(told: dict[str, str], param: str, code: str | None) -> None:
    error = backend_error({"error": told}, 400)
    assert (error.param, error.code) == (param, code)


KEY = "very,secret/backend+key=4711"
PASSWORD = "p@ss:word-of-the-url"


def secrets() -> Secrets:
    quoted = quote(PASSWORD, safe="")
    return secrets_of(
        [
            BackendSettings(url=f"http://me:{quoted}@h/v1", api_key=SecretStr(KEY)),
            BackendSettings(url="http://h/v1", api_key=SecretStr("EMPTY"), proxy=SecretStr("http://u:proxy-pass@p:1")),
        ]
    )


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "spelt",
    [
        KEY, KEY.upper(), quote(KEY), quote(KEY, safe=""), quote_plus(KEY), base64_of(KEY), base64_of(f"Bearer {KEY}"),
        base64_of(f"x{KEY}y"), base64.urlsafe_b64encode(f">>{KEY}".encode()).decode(), PASSWORD, quote(PASSWORD),
        base64_of(f"me:{PASSWORD}"), "proxy-pass", base64_of("u:proxy-pass"), "EMPTY",
    ],
)  # fmt: skip
def test_a_backends_own_keys_are_taken_out_by_value(spelt: str) -> None:
    told = {"message": f"no: {spelt}!", "param": spelt, "code": spelt, "type": spelt.lower()}
    error = backend_error(json.dumps({"error": told}).encode(), 400, secrets=secrets())
    assert error.message.startswith("no: ")
    assert error.message.endswith("[redacted]!")
    wire = error.to_wire().decode()
    half = len(spelt) // 2  # what stands in front of a key may stay, as the Base64 of "Bearer "
    assert spelt[half : half + 6] not in wire
    assert spelt[-6:] not in wire
    again = without_secrets(error_in_answer({"error": {**told, "code": 429}}), secrets())
    assert (again.status, again.message) == (429, error.message)
    assert spelt not in again.to_wire().decode()


def test_a_key_that_is_a_word_is_taken_out_only_where_it_stands_alone() -> None:
    error = backend_error({"error": {"message": "the key EMPTY is wrong; emptying"}}, 400, secrets=secrets())
    assert error.message == "the key [redacted] is wrong; emptying"


def test_a_key_at_the_end_of_what_is_shown_is_not_cut_into_a_piece_of_it() -> None:
    for length in (1_990, 7_990):
        error = backend_error("x" * length + " " + KEY, 400, secrets=secrets())
        assert "very" not in error.message


def test_secrets_do_not_show_themselves() -> None:
    assert repr(secrets()) == "Secrets(…)"


@pytest.mark.parametrize(("value", "quoted"), [("Custom my-own-key", "my-own-key"), ("two words", "two words")])
def test_what_a_backends_headers_say_is_taken_out_whole_and_without_its_scheme(value: str, quoted: str) -> None:
    hidden = secrets_of([BackendSettings(url="http://h/v1", headers={"x-key": SecretStr(value)})])
    assert hidden.hide(f"no: {quoted}!") == "no: [redacted]!"


@pytest.mark.parametrize(
    "payload",
    [
        {"error_code": 336007, "error_msg": "too long"}, {"code": "InvalidParameter", "message": "too long"},
        {"errors": [{"message": "too long"}]}, {"detail": "too long"}, {"code": 400, "msg": "too long"},
        {"object": "chunk", "choices": None, "error_type": "BadRequestError", "error_message": "too long"},
        {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "too long"}},
    ],
)  # fmt: skip
def test_a_failure_with_status_200_is_told_with_its_reason(payload: dict[str, Any]) -> None:
    assert is_error(payload)
    assert error_in_answer(payload).message == "too long"


def test_a_server_that_says_of_each_answer_how_it_went_is_believed() -> None:
    assert not is_error({"choices": None, "base_resp": {"status_code": 0, "status_msg": "success"}})


@pytest.mark.parametrize("rest", [{"choices": []}, {"data": []}])
def test_an_answer_that_has_such_members_too_is_no_failure(rest: dict[str, Any]) -> None:
    assert not is_error({"code": "ok", "message": "fine", "detail": {"a": 1}, **rest})


@pytest.mark.parametrize("payload", [{}, {"message": "hi"}, {"code": 0, "message": "success"}, {"usage": {}}])
def test_an_object_that_tells_of_nothing_is_no_failure(payload: dict[str, Any]) -> None:
    assert not is_error(payload)
