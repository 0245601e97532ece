"""Any error that a backend tells, in any server's shape, in; one error of our tree out. No I/O.

What reaches the client is the backend's message (redacted and cut), its string code and its Retry-After; what the
operator got wrong (keys, routes, model names) is a 500 that says so, since the client cannot mend it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from shared.errors import (
    AqueductError,
    BackendRefused,
    BackendTimeout,
    BackendUnreachable,
    BadBackendResponse,
)

MAX_MESSAGE_CHARS = 2_000
_MAX_READ_CHARS = 8_000
"""Patterns run over no more than this."""

_CREDENTIALS = frozenset({401, 402, 403, 407})
_CONFIGURATION = frozenset({404, 405, 410})
_TIMEOUT = frozenset({408, 504, 524})
_UNREACHABLE = frozenset({502, 503, 520, 521, 522, 523, 529})
_KEPT = frozenset({400, 413, 422})

_TOO_LONG = re.compile(
    r"context[ _](?:length|window|size)|max_model_len|maximum model length|maximum input length|too many tokens"
    r"|prompt is too long|input is too long|exceed_context",
    re.IGNORECASE,
)
_SECRETS = re.compile(
    r"""
      \bbearer\s+[^\s"',]+
    | \b(?:sk|pk|rk)-[^\s"',;)]+
    | \b(?:hf|gsk|xai|key|api|nvapi|glpat|ghp)[-_][A-Za-z0-9_\-]{12,}
    | \bapi[-_]?key["']?\s*[=:]\s*["']?[^\s"',;)]+
    | \bAIza[\w-]{20,}
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ADDRESSES = re.compile(
    r"""
      \b[a-z][a-z0-9+.\-]{0,20}://[^\s"'<>)]+
    | \bhost=\s*["']?[^\s"',;)]+
    | \[[0-9a-f:.]*:[0-9a-f:.]*:[0-9a-f:.]*\](?::\d{1,5})?
    | \b\d{1,3}(?:\.\d{1,3}){3}\b(?::\d{1,5})?
    | \b[a-z][a-z0-9_.\-]{0,252}:\d{2,5}\b
    | \b[a-z0-9\-]+(?:\.[a-z0-9\-]+){0,20}\.(?:internal|local|lan|corp|svc|intranet)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ECHOED_INPUT = re.compile(r"""input_value=.*?(?=,\s*input_type=|$)|['"]input['"]\s*:.*""", re.DOTALL)
"""Validation libraries quote what they were given, which is the prompt."""

_PUBLIC_TYPE = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class _Told:
    """What a backend told about its failure."""

    message: str | None = None
    type: str | None = None
    code: str | None = None
    number: int | None = None
    param: str | None = None


def backend_error(payload: object, status: int, retry_after: float | None = None) -> AqueductError:
    """Return the error for a backend's HTTP answer that is not 2xx.

    Args:
        payload: The answer's body: bytes, text, or parsed JSON.
        status: The answer's HTTP status.
        retry_after: Seconds, from the answer's Retry-After header.
    """
    told = _read(payload)
    if status < 400 or status > 599:
        return BadBackendResponse(f"The model's backend answered with the unexpected status {status}.")
    if status in _CREDENTIALS:
        return _operator_error("The model's backend refused the gateway's credentials; tell the operator.")
    if status in _CONFIGURATION:
        return _operator_error(
            "The model's backend does not know the model or the route that the gateway asked for; tell the operator."
        )
    if status in _TIMEOUT:
        return BackendTimeout(told.message, code=told.code, retry_after=retry_after)
    if status in _UNREACHABLE:
        return BackendUnreachable(told.message, code=told.code, retry_after=retry_after)
    if status == 429:
        return _rate_limited(told, retry_after)
    if status < 500:
        return _invalid_request(told, status, retry_after)
    return BackendRefused(
        told.message or "The model's backend failed. Retry; if it persists, tell the operator.",
        status=500,
        type="server_error",
        code=told.code or "backend_error",
        param=told.param,
        retry_after=retry_after,
    )


def error_in_answer(payload: object) -> AqueductError:
    """Return the error for an error object inside a 200 answer or its stream.

    Its status is 500 unless the object has a number from 400 to 599 as its code.
    """
    return backend_error(payload, _read(payload).number or 500)


def is_error(payload: dict[str, Any]) -> bool:
    """Tell whether a JSON object inside a 200 answer or its stream is an error in one of the known shapes."""
    if payload.get("object") == "error":
        return True
    if "error" not in payload:
        return False
    error = payload["error"]
    return bool(error) or (error is not None and not isinstance(payload.get("choices"), list))


def redact(message: str) -> str:
    """Return the message without addresses, keys and echoed input, at most 2,000 characters."""
    text = message[:_MAX_READ_CHARS].encode("utf-8", "replace").decode()  # half a surrogate pair could not be sent
    text = _ECHOED_INPUT.sub("[redacted]", text)
    text = _ADDRESSES.sub("[redacted]", _SECRETS.sub("[redacted]", text)).strip()
    return text if len(text) <= MAX_MESSAGE_CHARS else text[: MAX_MESSAGE_CHARS - 1] + "…"


def _rate_limited(told: _Told, retry_after: float | None) -> AqueductError:
    return BackendRefused(
        told.message or "The model's backend is over its rate limit. Retry later.",
        status=429,
        type=told.type or "rate_limit_error",
        code=told.code or "rate_limit_exceeded",
        param=told.param,
        retry_after=retry_after,
    )


def _invalid_request(told: _Told, status: int, retry_after: float | None) -> AqueductError:
    code, param = told.code, told.param
    if _TOO_LONG.search(" ".join(filter(None, (told.message, told.type, told.code)))):
        code, param = "context_length_exceeded", "messages"
    return BackendRefused(
        told.message or "The model's backend refused the request as invalid.",
        status=status if status in _KEPT else 400,
        type="invalid_request_error" if code == "context_length_exceeded" else told.type or "invalid_request_error",
        code=code,
        param=param,
        retry_after=retry_after,
    )


def _operator_error(message: str) -> AqueductError:
    return BackendRefused(message, status=500, type="server_error", code="backend_error")


def _read(payload: object) -> _Told:
    if isinstance(payload, (bytes, bytearray)):
        payload = _decode(bytes(payload))
    if isinstance(payload, list) and payload:
        payload = payload[0]
    if isinstance(payload, str):
        return _Told(message=_text(payload))
    if not isinstance(payload, dict):
        return _Told()
    if isinstance(payload.get("error"), dict):
        return _read_object(payload["error"])
    if isinstance(payload.get("error"), str):
        return _read_object({**payload, "message": payload["error"]})
    if "detail" in payload:
        return _read_detail(payload["detail"])
    return _read_object(payload)


def _decode(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body[:_MAX_READ_CHARS].decode("utf-8", "replace")


def _read_object(error: dict[str, Any]) -> _Told:
    number, code, kind, param = None, error.get("code"), error.get("type"), error.get("param")
    is_number = isinstance(code, int | float) and not isinstance(code, bool)
    if is_number or (isinstance(code, str) and code.isdecimal()):
        number, code = _status(code), None
    return _Told(
        message=_text(error.get("message")),
        # A class name such as vLLM's BadRequestError is no OpenAI type.
        type=kind if isinstance(kind, str) and _PUBLIC_TYPE.fullmatch(kind) else None,
        code=redact(code[:128]) if isinstance(code, str) and code else None,
        number=number,
        param=redact(param[:256]) if isinstance(param, str) and param else None,
    )


def _read_detail(detail: object) -> _Told:
    """Read FastAPI's `detail`: text, an object, or a list of `{loc, msg, type, input}` whose input is the prompt."""
    if isinstance(detail, dict):
        return _read_object(detail)
    if not isinstance(detail, list):
        return _Told(message=_text(detail))
    places = [
        (".".join(str(part) for part in loc if part != "body"), str(item.get("msg") or "invalid"))
        for item in detail
        if isinstance(item, dict) and isinstance(loc := item.get("loc") or [], list)
    ]
    message = "; ".join(f"{place}: {what}" if place else what for place, what in places)
    return _Told(message=_text(message), param=redact(places[0][0][:256]) or None if places else None)


def _status(code: Any) -> int | None:
    try:
        number = int(code)
    except (ValueError, OverflowError):
        return None
    return number if 400 <= number <= 599 else None


def _text(message: object) -> str | None:
    """Return a message fit to be shown; None for none, and for a proxy's HTML page."""
    if not isinstance(message, str) or message.lstrip().startswith("<"):
        return None
    return redact(message) or None
