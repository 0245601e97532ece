"""Every refusal is an OpenAI error object with the right status: the framework's own 404, a backend's failure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import MAX_BODY_BYTES
from tests.e2e.wire import MESSAGES, chat, envelope, running
from tests.support.chat import CHAT
from tests.support.raw import connect
from tests.support.system import DemoBackend, System

JSON = {"content-type": "application/json"}
VALID = json.dumps({"model": "demo", "messages": MESSAGES})


# --- bodies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b'"x"', b"null", b"1", b"true", b"NaN", b"\xff\xfe", b"\x00",
        b'{"model":"demo","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
        b'{"model":"demo","messages":[{"role":"user","content":"x"}],"temperature":-Infinity}',
        b'{"model":"demo","messages":[{"role":"user","content":"x"}],"temperature":1e999}',
        b'{"model":"demo","messages":[{"role":"user","content":"x"}],"top_k":1e999}',
        b'{"model":"demo","model":"demo","messages":[{"role":"user","content":"x"}]}',
        b'{"model":"demo","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"demo","messages":[{"role":"user","content":"\xed\xa0\x80"}]}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"model":"demo","messages":[{"role":"user","content":"x"}],"top_k":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    ],
    ids=lambda raw: repr(raw[-36:]),
)  # fmt: skip
def test_body_that_is_no_usable_json_object_is_400(client: httpx.Client, raw: bytes) -> None:
    answer = client.post(CHAT, content=raw, headers=JSON)
    envelope(answer, 400, type="invalid_request_error", code="invalid_json", param=None)


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"model": None}, "model", "invalid_type"),
        ({"model": 1}, "model", "invalid_type"),
        ({"messages": None}, "messages", "invalid_type"),
        ({"messages": []}, "messages", None),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"model": "extras-refuse", "messages": [{"role": "robot", "content": "x"}]}, "messages[0].role",
         "invalid_value"),
        ({"n": 129}, "n", "integer_above_max_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "integer_below_min_value"),
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"top_p": -0.1}, "top_p", "decimal_below_min_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"reasoning_effort": "maximum"}, "reasoning_effort", "invalid_value"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 7}}}},
         "response_format", "invalid_value"),
    ],
    ids=lambda value: json.dumps(value)[:48] if isinstance(value, dict) else None,
)  # fmt: skip
def test_bad_parameter_is_400_and_named(
    client: httpx.Client, change: dict[str, Any], param: str, code: str | None
) -> None:
    error = envelope(chat(client, **change), 400, type="invalid_request_error", param=param)
    assert error["code"] == code or (code is None and error["code"])
    assert param.rpartition(".")[2].partition("[")[0] in error["message"] or "Supported values are" in error["message"]


def test_refused_request_never_reaches_the_backend(client: httpx.Client, demo_backend: DemoBackend) -> None:
    envelope(chat(client, messages=[{"role": "user", "content": "never-sent"}], n=129), 400)
    assert "never-sent" not in json.dumps(demo_backend.requests())


# --- tokens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        (None, None), ("", None), ("Bearer", None), ("Basic dXNlcjpwYXNz", None), ("{token}", None),
        ("Token {token}", None), ("Bearer {token} x", None), ("Basic {token}", None),
        ("Bearer wrong", "invalid_api_key"), ("Bearer {token}x", "invalid_api_key"),
        ("Bearer {expired}", "invalid_api_key"), ("Bearer caf\u00e9", "invalid_api_key"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/models/demo"])
def test_bad_authorization_is_401(
    gateway: System, anonymous: httpx.Client, path: str, authorization: str | None, code: str | None
) -> None:
    headers = {b"content-type": b"application/json"}
    if authorization is not None:
        value = authorization.format(token=gateway.token, expired=gateway.tokens["expired"])
        headers[b"authorization"] = value.encode()
    method, body = ("POST", VALID) if path == CHAT else ("GET", "")
    answer = anonymous.request(method, path, content=body, headers=headers)
    error = envelope(answer, 401, type="invalid_request_error", param=None, code=code)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert gateway.token not in error["message"]


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_schemes_name_is_case_insensitive(gateway: System, anonymous: httpx.Client, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {gateway.token}"}
    assert anonymous.post(CHAT, content=VALID, headers={**JSON, **headers}).status_code == 200


@pytest.mark.parametrize(
    ("raw", "headers"),
    [(b"{", JSON), (b"x" * (MAX_BODY_BYTES + 1), JSON), (b"x", {"content-type": "text/plain"})],
    ids=["no json", "too large", "wrong type"],
)
def test_authentication_comes_before_the_body(anonymous: httpx.Client, raw: bytes, headers: dict[str, str]) -> None:
    envelope(anonymous.post(CHAT, content=raw, headers=headers), 401)


def test_authentication_does_not_wait_for_the_body(gateway: System) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    assert _exchange(gateway, [head, b"content-length: 500\r\n\r\n"]).startswith(b"HTTP/1.1 401 ")


# --- the framework's own ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v2", "/v1/responses", "/v1/chat/completions/x/y", "/v2/models", "/v1/%00"])
def test_unknown_path_is_404(client: httpx.Client, path: str) -> None:
    envelope(client.get(path), 404, type="invalid_request_error", code="unknown_url", param=None)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        *[(method, CHAT, allow) for method in ("PUT", "DELETE", "PATCH") for allow in ("GET", "POST")],
        ("PUT", "/v1/embeddings", "POST"),
        *[(method, "/v1/models", "GET") for method in ("POST", "DELETE")],
        ("DELETE", "/v1/models/demo", "GET"),
        ("POST", "/models", "HEAD"),
    ],
)
def test_wrong_method_is_405_and_says_which_is_right(client: httpx.Client, method: str, path: str, allow: str) -> None:
    answer = client.request(method, path)
    envelope(answer, 405, type="invalid_request_error", code="method_not_allowed", param=None)
    assert allow in answer.headers["allow"].split(", ")


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/nowhere", "/healthz"])
def test_head_has_no_body_and_a_request_id(client: httpx.Client, path: str) -> None:
    answer = client.head(path)
    assert answer.status_code in (200, 404, 405)
    assert answer.content == b""
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("content_type", [None, "text/plain", "multipart/form-data; boundary=x", "application/xml", ""])
def test_body_that_is_not_declared_as_json_is_415(client: httpx.Client, content_type: str | None) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    answer = client.post(CHAT, content=VALID, headers=headers)
    envelope(answer, 415, type="invalid_request_error", code="unsupported_media_type", param=None)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON"])
def test_json_content_type_may_have_parameters_and_any_case(client: httpx.Client, content_type: str) -> None:
    assert client.post(CHAT, content=VALID, headers={"content-type": content_type}).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 16 * MAX_BODY_BYTES])
def test_too_large_body_gets_its_413_and_no_reset(gateway: System, chunked: bool, size: int) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(0, size, 65_536):
            yield b"x" * 65_536

    with gateway.client() as client:
        answer = client.post(CHAT, content=parts() if chunked else b"x" * size, headers=JSON)
        error = envelope(answer, 413, type="invalid_request_error", code="request_too_large", param=None)
        assert str(MAX_BODY_BYTES) in error["message"]
        assert chat(client).status_code == 200


def test_largest_allowed_body_passes(client: httpx.Client) -> None:
    frame = len(json.dumps({"model": "short", "messages": [{"role": "user", "content": ""}]}))
    text = "x" * (MAX_BODY_BYTES - frame)
    raw = json.dumps({"model": "short", "messages": [{"role": "user", "content": text}]})
    assert len(raw) == MAX_BODY_BYTES
    assert client.post(CHAT, content=raw, headers=JSON).status_code == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"GET /v1/models HTTP/1.1\r\nhost: x\r\n" + b"".join(b"x-%d: %b\r\n" % (i, b"y" * 900) for i in range(80))
         + b"\r\n", b"431"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", b"431"),
    ],
    ids=["no http", "header flood", "long path"],
)  # fmt: skip
def test_request_that_cannot_be_parsed_gets_an_envelope_too(
    gateway: System, request_bytes: bytes, status: bytes
) -> None:
    head, _, body = _exchange(gateway, [request_bytes]).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert b"x-request-id: req_" in head
    assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}


# --- models -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nonexistent", "", "demo ", "DEMO", "vendor", "a" * 5000, "../models"])
def test_unknown_model_is_404(client: httpx.Client, name: str) -> None:
    error = envelope(chat(client, name), 404, type="invalid_request_error", code="model_not_found", param="model")
    assert len(error["message"]) < 300


def test_model_without_a_live_worker_is_503(client: httpx.Client) -> None:
    answer = chat(client, "unserved")
    envelope(answer, 503, type="service_unavailable_error", code="no_worker", param=None)
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_full_queue_is_429_with_a_retry_after(client: httpx.Client) -> None:
    with running(client, "no-queue"):
        answer = chat(client, "no-queue")
    envelope(answer, 429, type="rate_limit_error", code="queue_full", param=None)
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert 1 <= int(answer.headers["retry-after-ms"]) <= 60_000


@pytest.mark.parametrize("stream", [False, True])
def test_wait_past_the_models_limit_is_504_and_may_be_retried(client: httpx.Client, stream: bool) -> None:
    with running(client, "short-wait"):
        answer = chat(client, "short-wait", stream=stream)
    envelope(answer, 504, type="timeout_error", code="queue_timeout", param=None)
    assert answer.headers.get("x-should-retry") != "false"


# --- backends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "status", "kind", "code"),
    [
        ("status-400", 400, "invalid_request_error", "own_code"),
        ("status-401", 500, "server_error", "backend_error"),
        ("status-403", 500, "server_error", "backend_error"),
        ("status-404", 500, "server_error", "backend_error"),
        ("status-408", 504, "timeout_error", "own_code"),
        ("status-413", 413, "invalid_request_error", "own_code"),
        ("status-418", 400, "invalid_request_error", "own_code"),
        ("status-422", 422, "invalid_request_error", "own_code"),
        ("status-429", 429, "rate_limit_error", "own_code"),
        ("status-500", 500, "server_error", "own_code"),
        ("status-502", 503, "service_unavailable_error", "own_code"),
        ("status-503", 503, "service_unavailable_error", "own_code"),
        ("status-504", 504, "timeout_error", "own_code"),
        ("llamacpp-400", 400, "invalid_request_error", None),
        ("vllm-old-400", 400, "invalid_request_error", None),
        ("html-502", 503, "service_unavailable_error", "backend_unavailable"),
        ("html-500", 500, "server_error", "backend_error"),
        ("empty-500", 500, "server_error", "backend_error"),
        ("error-in-200", 500, "server_error", "backend_error"),
        ("vllm-old-in-200", 400, "invalid_request_error", None),
        ("redirect", 500, "server_error", "bad_backend_response"),
        ("cut-before", 503, "service_unavailable_error", "backend_unavailable"),
        ("stall", 504, "timeout_error", "backend_timeout"),
    ],
)
def test_backends_failure_before_the_first_byte_keeps_a_status(
    client: httpx.Client, model: str, status: int, kind: str, code: str | None, stream: bool
) -> None:
    answer = chat(client, model, stream=stream)
    error = envelope(answer, status, type=kind, code=code)
    assert "own words" in error["message"] or code in ("backend_error", "bad_backend_response") or status >= 500
    assert "<" not in error["message"]
    assert "127.0.0.1" not in error["message"]


@pytest.mark.parametrize("model", ["garbage", "finish-abort"])
def test_nonsense_in_a_plain_answer_is_500(client: httpx.Client, model: str) -> None:
    envelope(chat(client, model), 500, type="server_error", code="bad_backend_response", param=None)


@pytest.mark.parametrize(("model", "sent"), [("retry-after-7", 7), ("retry-after-300", 60)])
def test_backends_retry_after_reaches_the_client_up_to_a_minute(client: httpx.Client, model: str, sent: int) -> None:
    answer = chat(client, model)
    assert int(answer.headers["retry-after"]) == sent
    assert int(answer.headers["retry-after-ms"]) == sent * 1000


def test_timeout_of_a_run_forbids_a_retry(client: httpx.Client) -> None:
    answer = chat(client, "stall")
    envelope(answer, 504, code="backend_timeout")
    assert answer.headers["x-should-retry"] == "false"


def _exchange(gateway: System, parts: list[bytes]) -> bytes:
    """Send bytes and return what comes back until the server closes or a whole answer is here."""
    with connect(gateway, timeout_seconds=10) as connection:
        for part in parts:
            connection.sendall(part)
        received = b""
        while True:
            head, blank, body = received.partition(b"\r\n\r\n")
            lengths = [line[16:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")]
            if blank and len(body) >= int(lengths[0] if lengths else 0):
                return received
            more = connection.recv(65_536)
            if not more:
                return received
            received += more


def test_integers_beyond_64_bits_in_stream_options_are_refused(client: httpx.Client) -> None:
    answer = chat(client, stream=True, stream_options={"x": 1 << 70})
    envelope(answer, 400, type="invalid_request_error", code="invalid_value", param="stream_options")
